# SPDX-License-Identifier: Apache-2.0

"""The page of the server, in a real Chromium."""

from __future__ import annotations

import os
import re
import shutil

import pytest
from server_process import running

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

CHROMIUM = os.environ.get("UNILLM_CHROMIUM") or shutil.which("chromium")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
COUNT = "Count from 3 to 9:"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium; UNILLM_CHROMIUM names one"
)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield browser
        browser.close()


class Opened:
    """A page, with the addresses that it asked and the errors that it had."""

    def __init__(self, browser, url, path="/", **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.asked, self.errors = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)
        self.url = url
        self.path = path

    def _note(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def load(self):
        self.page.goto(self.url + self.path)
        expect(self.page.locator("#health")).to_have_text("ready", timeout=30_000)

    def send(self, text):
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")

    @property
    def answer(self):
        return self.page.locator(".message").last

    def ended(self):
        facts = self.answer.locator(".facts")
        expect(facts).to_contain_text("ended by", timeout=60_000)
        return facts.text_content()


@pytest.fixture
def opened(server, browser):
    pages = []

    def opened(**options):
        page = Opened(browser, server.url, **options)
        pages.append(page)
        page.load()
        return page

    yield opened
    for page in pages:
        assert page.errors == []
        assert all(url.startswith(f"{server.url}/") for url in page.asked)
        page.context.close()


def test_a_chat_streams_and_shows_its_slot_and_how_long_it_waited(opened):
    page = opened()

    page.send(COUNT)

    facts = page.ended()
    assert page.answer.locator(".body").text_content() == "3 4 5 6 7 8 9"
    assert "20 + 14 tokens" in facts
    assert re.search(r"slot \d · waited \d+ steps · ended by stop", facts)


def test_a_completion_shows_each_token_and_its_probabilities(opened):
    page = opened()
    page.page.click("#tab-completion")
    page.page.check("#show_tokens")

    page.send(COUNT)

    page.ended()
    tokens = page.answer.locator(".token")
    assert tokens.count() == 14
    tokens.first.hover()
    shown = page.page.locator(".alternatives").text_content()
    assert re.search(r"→ +\d+\.\d\d %  \"3\"", shown)
    assert len(shown.splitlines()) == 5


def test_escape_stops_a_stream_and_the_page_goes_on(opened, server):
    page = opened()
    page.page.fill("#max_tokens", "4000")
    page.page.fill("#temperature", "2")
    page.send("Hello?")
    expect(page.answer.locator(".body")).not_to_be_empty(timeout=30_000)

    page.page.keyboard.press("Escape")

    expect(page.answer.locator(".facts")).to_have_text("stopped")
    expect(page.page.locator("#counts")).to_contain_text("0 of", timeout=30_000)
    page.page.click("#clear")
    page.page.fill("#max_tokens", "50")
    page.page.fill("#temperature", "0")
    page.send(COUNT)
    page.ended()


def test_a_refusal_is_shown_in_the_servers_words(opened):
    page = opened()
    page.page.fill("#temperature", "7")

    page.send(COUNT)

    facts = page.answer.locator(".facts")
    expect(facts).to_contain_text("temperature must be", timeout=30_000)
    page.errors.clear()  # the browser logs the status 400


def test_the_keyboard_reaches_everything(opened):
    page = opened().page
    page.locator("#tab-chat").focus()

    page.keyboard.press("ArrowRight")

    expect(page.locator("#tab-completion")).to_be_focused()
    expect(page.locator("#tab-completion")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("/")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("a")
    page.keyboard.press("Shift+Enter")
    assert page.locator("#prompt").input_value() == "a\n"


def test_dark_and_light_follow_the_system_and_the_button(opened):
    def ground(page):
        return page.evaluate("() => getComputedStyle(document.body.parentNode).color")

    light = opened(color_scheme="light").page
    dark = opened(color_scheme="dark").page
    colours = {ground(light), ground(dark)}
    assert len(colours) == 2

    dark.click("#theme")
    assert ground(dark) == ground(light)
    dark.reload()
    assert ground(dark) == ground(light)


def test_a_narrow_screen_needs_no_sideways_scrolling(opened):
    page = opened(viewport={"width": 360, "height": 640}).page

    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    page.locator("#timeline").scroll_into_view_if_needed()
    expect(page.locator("#timeline")).to_be_visible()


def test_the_timeline_shows_the_last_requests(opened):
    page = opened()
    page.send(COUNT)
    page.ended()

    label = re.compile(r"\d+ requests?, \d+ generate")
    expect(page.page.locator("#timeline")).to_have_attribute("aria-label", label)
    painted = page.page.evaluate(
        """() => {
            const canvas = document.getElementById("timeline");
            const context = canvas.getContext("2d");
            const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
            return pixels.data.some((value) => value !== 0);
        }"""
    )
    assert painted


def test_the_page_works_under_a_path(browser, server):
    outside = "http://outside.test"
    page = Opened(browser, outside, "/models/tiny/")

    def forward(route):
        path = route.request.url.removeprefix(f"{outside}/models/tiny")
        route.fulfill(response=route.fetch(url=server.url + path))

    page.page.route(f"{outside}/**", forward)
    page.load()
    page.send(COUNT)

    page.ended()
    assert page.answer.locator(".body").text_content() == "3 4 5 6 7 8 9"
    assert all(url.startswith(f"{outside}/models/tiny/") for url in page.asked)
    page.context.close()


def test_a_server_with_a_key_asks_the_browser_for_it(browser):
    with running("unillm/tiny", "--api-key", "secret") as server:
        options = {"http_credentials": {"username": "any", "password": "secret"}}
        page = Opened(browser, server.url, **options)
        page.load()
        page.send(COUNT)
        page.ended()
        page.context.close()
        assert server.client.get("/").status_code == 401


def test_only_the_pages_own_files_are_served(server):
    assert server.client.get("/page/main.js").status_code == 200
    for name in ("__init__.py", "nothing.js", "%2e%2e%2fapp.py", "index.html"):
        assert server.client.get(f"/page/{name}").status_code == 404


def test_the_activity_has_no_text(server):
    server.post("/v1/completions", prompt="Spell the word secret:", max_tokens=4)

    report = server.client.get("/activity").json()

    assert report["num_slots"] == 8
    last = report["requests"][-1]
    assert (last["done"], last["reason"], last["tokens"]) == (True, "length", 4)
    assert last["queued"] >= last["first_token"] >= last["last_token"] >= 0
    assert "secret" not in str(report)
