"""The page in a browser: what it shows is the data, by pointer and by key, wide and narrow, light and dark."""

import io
import json
import random
import shutil

import numpy as np
import pytest

from iprm.vqa.data.examples import DataError
from iprm.vqa.look.layout import HEIGHT, WIDTH
from iprm.vqa.look.page import html

T, K, W = 3, 4, 2
HOSTILE = "</script><img src=x onerror=document.title='broken'>{{data}}"
MISSING = "needs a Chromium that playwright can drive"
COLORS, SHAPES = ("red", "blue", "yellow"), ("cube", "sphere", "cylinder")


def spread(rng, *shape):
    """Random probabilities over the last dimension, a few of them large."""
    if len(shape) > 1:
        return [spread(rng, *shape[1:]) for _ in range(shape[0])]
    weights = [rng.random() ** 8 + 1e-3 for _ in range(shape[0])]
    return [round(weight / sum(weights), 4) for weight in weights]


def attention(rng, length, tokens, readout=True):
    operations = spread(rng, T, K, K * (1 + W))
    for row in operations[0]:
        row[2 * K :] = [0.0] * K * (W - 1)  # the first step looks back on the initial memory alone
    maps = {"language": spread(rng, T, K, length), "visual": spread(rng, T, K, tokens), "operations": operations}
    return maps | {"readout": spread(rng, K) if readout else None}


def thing(rng, number):
    labels = {"size": "large", "color": COLORS[number % 3], "material": "metal", "shape": SHAPES[number % 3]}
    name = " ".join(labels.values())
    return {"x": rng.randint(30, 450), "y": rng.randint(30, 290), "name": name, "labels": labels}


def question(rng, words, answer, guess, family, things=3):
    scene = {"width": WIDTH, "height": HEIGHT, "scale": 1.0, "cells": None, "image": "a.png"}
    nodes = [("scene", [], [], list(range(things))), ("filter_color", [0], ["red"], [0]), ("count", [1], [], [0])]
    return {
        "words": words.split(),
        "answer": answer,
        "family": family,
        "guesses": [{"answer": guess, "probability": 0.8}, {"answer": "other", "probability": 0.2}],
        "scene": scene | {"tokens": [thing(rng, i) for i in range(things)]},
        "attention": attention(rng, len(words.split()), things),
        "program": [dict(zip(("function", "inputs", "values", "tokens"), node, strict=True)) for node in nodes],
    }


def cells(rng):
    """A question about a feature map, without a program, composition or read-out weights."""
    asked = question(rng, "is it a cat", "yes", "yes", "all")
    tokens = [{"x": 20 + 40 * (i % 12), "y": 20 + 40 * (i // 12), "name": "", "labels": {}} for i in range(96)]
    asked["scene"] |= {"cells": [8, 12], "tokens": tokens, "image": None}
    asked |= {"attention": attention(rng, 4, 96, readout=False), "program": None}
    asked["attention"]["operations"] = np.zeros((T, K, K * (1 + W))).tolist()
    return asked


def examples():
    rng = random.Random(0)
    return [
        question(rng, "how many red things are there", "2", "2", "count"),
        question(rng, f"what is {HOSTILE} here", HOSTILE, "no", "exist", things=5),
        cells(rng),
    ]


@pytest.fixture(scope="module")
def questions():
    return examples()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason=MISSING)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip(MISSING)
    with api.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"{MISSING}: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(questions, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "look.html"
    path.write_text(html(questions, about="a run"), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def open_page(browser, address):
    """Open the page anew; afterwards nothing was said on the console, and nothing but the file was asked for."""
    opened, said, asked = [], [], []

    def open_page(width=1280, height=900, scheme="light", at=address):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(at)
        opened.append((page, at))
        return page

    yield open_page
    for page, _ in opened:
        page.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [at for _, at in opened]


def percent(weight):
    return f"{int(100 * weight + 0.5)} %"


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def check_shown(page, asked, step, operation):
    """The words, the objects, the marks and the lines are those of one step and operation."""
    found = asked["attention"]
    language, visual, composed = (found[name][step][operation] for name in ("language", "visual", "operations"))
    under = [percent(weight) if weight >= 0.1 else "" for weight in language]
    assert texts(page, "#words small") == under
    assert texts(page, "#objects li > :last-child") == [percent(weight) for weight in visual]
    assert page.locator("#scene .ring").count() == sum(weight >= 0.02 for weight in visual)
    assert page.locator("#arcs path").count() == sum(weight >= 0.03 for weight in composed)
    pressed = page.locator("#grid [aria-pressed=true]")
    assert pressed.count() == 1
    assert pressed.get_attribute("aria-label").startswith(f"step {step + 1}, operation {operation + 1}: reads")
    assert texts(page, ".choose [aria-pressed=true]") == [str(step + 1), str(operation + 1)]


def test_the_first_question(open_page, questions):
    page = open_page()
    asked = questions[0]
    check_shown(page, asked, 0, 0)
    assert page.locator("#about").inner_text() == "a run"
    assert page.locator("#answers").inner_text().startswith("model 2 ✓")
    assert page.locator("#grid button").count() == T * K
    assert texts(page, "#grid > .shaded") == [percent(weight) for weight in asked["attention"]["readout"]]
    assert [row.split("\n") for row in texts(page, "#program li")] == [
        ["scene", "1, 2, 3"],
        ["filter color red", "1"],
        ["count", "1"],
    ]


def test_clicks_choose_step_operation_and_question(open_page, questions):
    page = open_page()
    page.locator("#grid button").nth(1 * T + 2).click()
    check_shown(page, questions[0], 2, 1)
    page.locator("#steps").get_by_text("2", exact=True).click()
    page.locator("#operations").get_by_text("4", exact=True).click()
    check_shown(page, questions[0], 1, 3)
    page.locator("#questions button").nth(1).click()
    check_shown(page, questions[1], 1, 3)
    assert page.locator("#answers").inner_text().startswith("model no ✗")


def test_keys_choose_too(open_page, questions):
    page = open_page()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    check_shown(page, questions[0], 1, 2)
    for key, row in (("j", 1), ("k", 0), ("PageDown", 1), ("PageUp", 0), ("PageUp", 0)):
        page.keyboard.press(key)
        check_shown(page, questions[row], 1, 2)
    page.locator("#grid [aria-pressed=true]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.at") == "1 1"  # the focus goes along
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("j")  # is the dialog's
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    check_shown(page, questions[0], 1, 1)


def test_all_operations_are_the_mean(open_page, questions):
    page = open_page()
    page.keyboard.press("ArrowLeft")
    mean = np.mean(questions[0]["attention"]["visual"][0], 0)
    assert texts(page, "#objects li > :last-child") == [percent(weight) for weight in mean]
    assert page.locator("#grid [aria-pressed=true]").count() == page.locator("#arcs path").count() == 0


def test_a_node_of_the_program_shows_its_objects(open_page, questions):
    page = open_page()
    visual = questions[0]["attention"]["visual"]
    page.locator("#program li").nth(0).hover()
    assert page.locator("#scene .true").count() == 3
    page.locator("#program li").nth(1).focus()
    assert page.locator("#scene .true").count() == 1
    shares = [percent(visual[step][operation][0]) for operation in range(K) for step in range(T)]
    assert texts(page, "#grid button small") == shares
    page.keyboard.press("ArrowDown")
    assert page.locator("#scene .true").count() == 1  # stays while the steps go by
    page.mouse.move(0, 0)
    page.keyboard.press("j")
    assert page.locator("#scene .true").count() == 0


def test_the_table_of_operations(open_page, questions):
    page = open_page()
    for step, columns, blocks in ((0, 2, ["this step", "start"]), (1, 3, ["this step", "step 1", "start"])):
        shades = page.locator("td").evaluate_all("all => all.map(td => +td.style.getPropertyValue('--shade'))")
        rows = [row[: columns * K] for row in questions[0]["attention"]["operations"][step]]
        np.testing.assert_allclose(shades, np.sqrt(np.ravel(rows)), atol=1e-3)
        assert texts(page, "th[colspan]") == blocks
        page.keyboard.press("ArrowDown")


def test_a_feature_map(open_page, questions):
    page = open_page()
    page.locator("#questions button").nth(2).click()
    weights = questions[2]["attention"]["visual"][0][0]
    shown = page.locator("#scene rect").evaluate_all("all => all.map(rect => +rect.getAttribute('fill-opacity'))")
    np.testing.assert_allclose(shown, 0.85 * np.array(weights) / max(weights))
    drawn = (
        page.locator("#grid button")
        .first.locator("path")
        .evaluate_all("all => all.map(path => path.getAttribute('d'))")
    )
    levels = np.round(8 * np.array(weights) / max(weights))
    assert sum(path.count("M") for path in drawn) == np.count_nonzero(levels)
    assert not page.locator("#truth").is_visible()
    assert page.locator("#objects li").count() == page.locator("#grid > .shaded").count() == 0
    assert page.locator("#composition").inner_text() == "The operations look at none."


def test_the_list_can_be_narrowed(open_page):
    page = open_page()
    assert texts(page, "#filter option") == ["all (3)", "right (2)", "wrong (1)", "count (1)", "exist (1)"]
    page.locator("#filter").select_option("wrong")
    assert page.locator("#questions button").count() == 1
    assert page.locator("#answers").inner_text().startswith("model no ✗")
    page.locator("h1").first.click()
    page.keyboard.press("j")  # there is no next one
    assert page.locator("#answers").inner_text().startswith("model no ✗")


def test_texts_of_the_data_are_texts(open_page, questions):
    page = open_page()
    page.keyboard.press("j")
    assert HOSTILE.split()[0] in page.locator("#words").inner_text()
    assert page.locator("img").count() == 0
    assert page.title() == "IPRM: look inside"
    content = page.locator("#data").evaluate("element => element.textContent")
    assert json.loads(content)["questions"] == questions


@pytest.mark.parametrize(("scheme", "bright"), [("light", True), ("dark", False)])
def test_it_is_drawn_in_light_and_dark(open_page, scheme, bright):
    from matplotlib.image import imread

    picture = imread(io.BytesIO(open_page(1280, 900, scheme).screenshot()))[..., :3]
    assert picture.shape == (900, 1280, 3)
    assert (np.median(picture) > 0.5) == bright
    assert len(np.unique(picture[::3, ::3].reshape(-1, 3).round(2) @ [1, 100, 10_000])) > 100


def test_it_fits_every_window(open_page):
    page = open_page()
    for width in (360, 600, 800, 1100, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        for row in range(3):
            page.locator("#questions button").nth(row).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_pictures_lie_under_the_marks(open_page, questions, tmp_path):
    from matplotlib.image import imsave

    imsave(tmp_path / "a.png", np.full((4, 6, 3), 0.5))
    path = tmp_path / "look.html"
    path.write_text(html(questions, images=tmp_path), encoding="utf-8")
    page = open_page(at=path.as_uri())
    assert page.locator("#scene image").get_attribute("href").startswith("data:image/png;base64,")
    assert page.locator("#scene rect, #scene ellipse").count() == 0  # the objects are in the picture
    check_shown(page, questions[0], 0, 0)


def test_what_cannot_be_shown_is_said(questions, tmp_path):
    with pytest.raises(ValueError, match=r"^questions: expected one at least, got none$"):
        html([])
    with pytest.raises(DataError, match=r"a\.png: expected a picture, got No such file"):
        html(questions, images=tmp_path)
    unnamed = [questions[0] | {"scene": questions[0]["scene"] | {"image": "../../etc/passwd"}}]
    with pytest.raises(DataError, match=r"passwd: expected the name of a picture \(\.png, \.jpg\), got 'passwd'"):
        html(unnamed, images=tmp_path)


def test_the_same_data_gives_the_same_file(questions):
    assert html(questions) == html(examples())
