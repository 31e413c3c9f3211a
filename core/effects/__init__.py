"""What each consumer group does with the events it takes, one module a group; `table` says who takes what."""
