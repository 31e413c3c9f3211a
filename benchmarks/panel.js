// Fills the tab "Messages" of Locust's page; with `data-alone`, a page of its own. Asks once a second.
(() => {
  const script = document.currentScript;
  const alone = "alone" in script.dataset;
  const figuresAt = new URL("figures", script.src);

  const make = (tag, text = "", attributes = {}) => {
    const node = Object.assign(document.createElement(tag), { textContent: text });
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const shown = (value) => {
    if (value === null) return "–";
    if (typeof value === "string") return value;
    return value.toLocaleString("en", { maximumFractionDigits: 1 });
  };

  const panel = make("section", "", { id: "messages", "aria-label": "Messages" });
  const state = make("p", "", { class: "state" });
  const figures = make("dl");
  const groups = make("div", "", { class: "scrolls" });
  const words = make("dl", "", { class: "words" });
  panel.append(
    make(
      "style",
      `#messages { padding-bottom: 48px; font-family: Roboto, sans-serif; }
       #messages > dl:not(.words) { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 16px; }
       #messages dl:not(.words) > div { border: 1px solid #8888; border-radius: 6px; padding: 12px; }
       #messages dt { font-size: 0.9em; } #messages dd { margin: 0; font-size: 0.85em; }
       #messages dd.value { font-size: 1.8em; font-variant-numeric: tabular-nums; }
       #messages .scrolls { overflow-x: auto; }
       #messages table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
       #messages th, #messages td { padding: 6px 12px; border-bottom: 1px solid #8888; text-align: right; }
       #messages th:first-child { text-align: left; }
       #messages .words dt { font-weight: bold; margin-top: 8px; } #messages .why { font-style: italic; }`,
    ),
    state,
    figures,
    groups,
    words,
  );

  const draw = (told) => {
    figures.replaceChildren(
      ...told.figures.map(({ key, title, value, says, why }) => {
        const one = make("div", "", { "data-figure": key });
        one.append(make("dt", title), make("dd", shown(value), { class: "value" }), make("dd", says));
        if (why) one.append(make("dd", `Not known: ${why}.`, { class: "why" }));
        return one;
      }),
    );
    const table = make("table");
    const head = table.createTHead().insertRow();
    head.append(make("th", "Consumer group", { scope: "col" }));
    for (const { title } of told.columns) head.append(make("th", title, { scope: "col" }));
    const body = table.createTBody();
    for (const group of told.groups) {
      const row = body.insertRow();
      row.dataset.group = group.group;
      row.append(make("th", group.group, { scope: "row" }));
      for (const { key } of told.columns) row.append(make("td", shown(group[key]), { "data-figure": key }));
    }
    groups.replaceChildren(table);
    words.replaceChildren(
      ...told.columns.flatMap(({ title, says, why }) => [
        make("dt", title),
        make("dd", says),
        ...(why ? [make("dd", `Not known: ${why}.`, { class: "why" })] : []),
      ]),
    );
  };

  const isWanted = () => alone || new URLSearchParams(location.search).get("tab") === "messages";
  const show = () => {
    // Below the tabs; where there are none yet, below everything.
    const place = document.querySelector('[role="tablist"]')?.closest(".MuiContainer-root") ?? document.body;
    if (panel.parentNode !== place) place.append(panel);
    panel.hidden = !isWanted();
  };
  const ask = async () => {
    show();
    if (panel.hidden) return;
    try {
      const answer = await fetch(figuresAt);
      if (!answer.ok) throw new Error(`Locust answered ${answer.status}`);
      draw(await answer.json());
      state.textContent = `As of ${new Date().toLocaleTimeString()}; asked anew every second.`;
    } catch (error) {
      state.textContent = `These figures are not renewed any more: ${error.message}.`;
    }
  };
  const again = async () => {
    await ask();
    setTimeout(again, 1000);
  };

  // Locust changes its tab without loading the page anew.
  document.addEventListener("click", () => setTimeout(ask));
  addEventListener("popstate", ask);
  again();
})();
