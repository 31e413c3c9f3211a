"""What a run writes down while it runs (`recorder`), the shape of each line (`records`), and reading it back."""
