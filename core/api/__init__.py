"""HTTP: routes, status codes and problem details. What a request does is in `core.commands` and `core.queries`."""
