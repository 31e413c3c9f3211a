"""Results to HTML, Markdown and SVG. Computes nothing: figures come from `verdict.json`, sentences from `findings`."""
