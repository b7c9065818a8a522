"""The least that Flask can do, under the service's gunicorn settings: the ceiling that HTTP sets."""

from flask import Flask

app = Flask(__name__)


@app.get("/hello")
def hello() -> str:
    """Answer five bytes."""
    return "hello"
