"""The tab "Messages" of Locust's own page, and /messages/ by itself: what `watching` knows, read anew every second."""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from flask import Blueprint, Response, jsonify, request
from locust.env import Environment

from benchmarks.watching import Messages, MetricsPage, watch_database
from core.storage.database import create_database_engine

LOOK_EVERY_S = 1.0
SCRIPT = Path(__file__).with_name("panel.js")
PAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Messages</title><body>{script}</body></html>'


def install(
    environment: Environment,
    consumer_pages: Sequence[str],
    database_url: str,
    groups: Mapping[str, Collection[str]],
    lost_after_s: float,
) -> Messages:
    """Add tab and page to the web page of `environment`, and look from now on, each source by a greenlet of its own.

    `groups`: event types by consumer group. `database_url` "": its figures say that it is not given.
    """
    # One line a second for each page would bury Locust's own log.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    api = MetricsPage(lambda: f"{environment.host.rstrip('/')}/metrics" if environment.host else "")
    pages = [MetricsPage(partial(str, page)) for page in consumer_pages]
    engine = create_database_engine(database_url, pool_connections=2) if database_url else None
    database = watch_database(engine, groups, lost_after_s) if engine is not None else None
    messages = Messages(api, pages, database, lost_after_s)
    for look in (*(page.read for page in (api, *pages)), messages.look):
        gevent.spawn(_every_second, look)
    _show(environment.web_ui, environment.parsed_options.web_base_path, messages)
    return messages


def _every_second(look: Any) -> None:
    while True:
        look()
        gevent.sleep(LOOK_EVERY_S)


def _show(web_ui: Any, base_path: str | None, messages: Messages) -> None:
    own = Blueprint("messages", __name__, url_prefix=f"{base_path or ''}/messages")

    @own.route("/")
    @web_ui.auth_required_if_enabled
    def page() -> str:
        return PAGE.format(script='<script src="panel.js" data-alone></script>')

    @own.route("/panel.js")
    @web_ui.auth_required_if_enabled
    def script() -> Response:
        return Response(SCRIPT.read_bytes(), mimetype="text/javascript")

    @own.route("/figures")
    @web_ui.auth_required_if_enabled
    def figures() -> Response:
        return jsonify(messages.figures())

    web_ui.app.register_blueprint(own)
    # Locust shows the tab and leaves its inside empty: the script fills it.
    web_ui.template_args["extended_tabs"] = [{"title": "Messages", "key": "messages"}]

    @web_ui.app.after_request
    def add_script(response: Response) -> Response:
        if request.endpoint == "locust.index" and response.status_code == 200:
            text = response.get_data(as_text=True)
            response.set_data(text.replace("</body>", '<script src="./messages/panel.js"></script></body>'))
        return response
