"""How long each stage took, how much got through, how fast it came back: from the history's times."""
