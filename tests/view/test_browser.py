"""Every room in a real browser: opened, clicked, lassoed, by keyboard, narrow and wide, with no error and no fault.

Needs a Chromium (``apt-get install chromium``, or CHROMIUM=/path) beside the test dependencies.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from histogen.errors import OutputExistsError
from histogen.pipelines.view.command import open_rooms
from histogen.pipelines.view.config import ViewConfig
from histogen.store.tile_set import TileSet
from histogen.view import umap_job
from histogen.view.answers import Answers
from histogen.view.export import export

from .conftest import Client, serving, unpack

playwright = pytest.importorskip("playwright.sync_api", reason="not run: playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="not run: axe-playwright-python is missing")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="not run: there is no browser; apt-get install chromium")
ROOMS = (
    "slides/drawn-00",
    "slides/drawn-01/{tile}",
    "tile/3",
    "map",
    "neighbours/31",
    "synthetic",
    "synthetic/40",
    "run/1",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--enable-unsafe-swiftshader"]  # WebGL without a graphics card
        opened = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, client: Client) -> Iterator[Callable[..., Any]]:
    """Open a room; at the end nothing may have gone wrong in the browser's console."""
    wrong: list[str] = []
    contexts = []

    def open_page(room: str, *, width: int = 1280, scheme: str = "light", at: str | None = None) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{at or client.server.address}#{room}")
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def centre_of(page: Any, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_every_room_fits_and_has_no_serious_fault(visit: Any, answers: Answers, width: int, scheme: str) -> None:
    second = answers.data("index")["stores"][1]["start"]
    page = visit("slides", width=width, scheme=scheme)
    for room in ROOMS:
        page.evaluate("hash => { location.hash = hash; }", room.format(tile=second + 4))
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(150)
        assert page.locator("main .bad").count() == 0, room
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= width, f"{room} is {wide} px wide"
        found = axe.Axe().run(page).response["violations"]
        serious = [
            (one["id"], one["nodes"][0]["html"][:90]) for one in found if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], room


def test_a_click_on_a_slide_opens_the_tile_there(visit: Any, answers: Answers) -> None:
    page = visit("slides/drawn-01")
    page.locator("canvas.zoom").focus()
    page.keyboard.press("0")
    number = answers.data("index")["stores"][1]["start"] + 7
    page.evaluate("hash => { location.hash = hash; }", f"slides/drawn-01/{number}")
    page.wait_for_selector("section[aria-label='tile drawn-01:7']")
    page.wait_for_timeout(300)
    at = centre_of(page, "canvas.zoom")  # the tile asked for is in the middle: its right neighbour is a tile's width on
    across = page.locator("canvas.zoom").bounding_box()
    step = min(across["width"], across["height"]) / 4
    x, y = (answers.tiles.row(number)[axis] for axis in ("x_l0", "y_l0"))
    rows = [answers.tiles.row(one) for one in range(number - 7, number - 7 + answers.tiles.stores[1].num_tiles)]
    beside = next(k for k, row in enumerate(rows) if (row["x_l0"], row["y_l0"]) in ((x + 64, y), (x - 64, y)))
    side = 1 if rows[beside]["x_l0"] > x else -1
    page.mouse.click(at[0] + side * step, at[1])
    page.wait_for_selector(f"section[aria-label='tile drawn-01:{beside}']")
    page.keyboard.press("Enter")  # by keyboard: the tile in the middle
    page.wait_for_selector("section[aria-label='tile drawn-01:7']")
    page.select_option("label:has-text('Colour tiles by') select", "label")
    page.wait_for_selector(".legend li:has-text('stroma')")


def test_slides_are_drawn_and_coloured(visit: Any) -> None:
    """The pixels of the canvas: tissue is there, and a colour changes them."""
    count = "() => { const c = document.querySelector('canvas.zoom'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const s = new Set(); for (let k = 0; k < d.length; k += 64) s.add((d[k] >> 4) * 256 + (d[k + 1] >> 4) * 16 + (d[k + 2] >> 4)); return s.size; }"  # noqa: E501
    page = visit("slides/drawn-00")
    page.wait_for_timeout(500)
    assert page.evaluate(count) > 50
    before = page.locator("canvas.zoom").screenshot()
    page.select_option("label:has-text('Colour tiles by') select", "focus")
    page.wait_for_timeout(300)
    assert page.locator("canvas.zoom").screenshot() != before


def test_a_room_that_comes_late_is_not_seen_in_the_next_one(visit: Any) -> None:
    page = visit("run/1")
    page.route("**/data/sources", lambda route: (page.wait_for_timeout(700), route.continue_()))
    page.evaluate("() => { location.hash = 'synthetic'; }")
    page.wait_for_selector("main :text('Opening …')")
    page.evaluate("() => { location.hash = 'run/1'; }")
    page.wait_for_selector("main .charts")
    page.wait_for_timeout(1200)
    assert page.locator("main .charts").count() == 1
    assert page.locator("main h2:has-text('Tiles from which')").count() == 0


def test_outlines_and_predictions_lie_over_a_slide(visit: Any) -> None:
    page = visit("slides/drawn-00")
    page.wait_for_timeout(500)
    seen = [page.locator("canvas.zoom").screenshot()]
    for choice, named in (("tissue", "tissue"), ("annotations", "stroma"), ("both", "stroma"), ("", None)):
        page.select_option("label:has-text('Outline') select", choice)
        if named:
            page.wait_for_selector(f".legends li:has-text('{named}')")
        page.wait_for_timeout(300)
        seen.append(page.locator("canvas.zoom").screenshot())
    assert seen[-1] == seen[0]
    assert len(set(seen)) == 4
    page.select_option("label:has-text('Colour tiles by') select", "benchmark.colour.knn")
    page.wait_for_selector(".legend li:has-text('none')")  # tiles that were trained on
    page.wait_for_timeout(300)
    assert page.locator("canvas.zoom").screenshot() not in seen


def test_a_lasso_on_the_map_makes_a_sheet_counts_and_a_column(browser: Any, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "tiles", tmp_path / "tiles")
    answers = open_rooms(ViewConfig(paths=[tmp_path / "tiles"]))
    with serving(answers) as client:
        page = browser.new_page()
        page.goto(f"{client.server.address}#map")
        page.wait_for_selector("canvas.points")
        page.get_by_role("button", name="Lasso").click()
        box = page.locator(".scatter canvas.zoom").bounding_box()
        corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99)]
        for number, (across, down) in enumerate(corners):
            page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=3)
            if number == 0:
                page.mouse.down()
        page.mouse.up()
        total = sum(store.num_tiles for store in answers.tiles.stores)
        page.wait_for_selector(f"h2:has-text('{total} tiles selected')")
        assert page.locator(".sheet img").count() == min(total, -(-total // -(-total // 200)))
        page.get_by_label("name of the column").fill("all-of-them")
        page.get_by_role("button", name="Keep as a column").click()
        page.wait_for_selector("code:has-text('--set where.all-of-them=chosen')")
        page.close()
    first = answers.tiles.stores[0]
    assert first.rows_attributes("columns/all-of-them")["categories"] == ["chosen", "other"]
    assert (first.read_rows("columns/all-of-them") == 0).all()


def test_umap_tells_its_progress_is_kept_and_is_the_same_again(browser: Any, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "tiles", tmp_path / "tiles")
    with serving(open_rooms(ViewConfig(paths=[tmp_path / "tiles"], encoders=["colour"]))) as client:
        page = browser.new_page()
        page.goto(f"{client.server.address}#map")
        page.wait_for_selector("canvas.points")
        page.select_option("label:has-text('Map by') select", "umap")
        page.wait_for_selector("main > div > p:has-text('UMAP: ')")
        page.wait_for_selector("main > div > p:has-text('tiles.')", timeout=120_000)
        page.close()
    kept = list((tmp_path / "tiles" / "maps").glob("colour-histogram-*.npy"))
    assert len(kept) == 1
    again = open_rooms(ViewConfig(paths=[tmp_path / "tiles"], encoders=["colour"]))
    assert again.data("map/colour-histogram/umap")["state"] == "done"
    np.save(tmp_path / "vectors.npy", TileSet.open_(tmp_path / "tiles").embeddings("colour-histogram"))
    umap_job.main(tmp_path / "vectors.npy", tmp_path / "places.npy", 0)
    np.testing.assert_array_equal(np.load(tmp_path / "places.npy"), np.load(kept[0]))


def test_two_encoders_are_seen_side_by_side(visit: Any, answers: Answers) -> None:
    page = visit("neighbours/31")
    assert page.locator(".twice section").count() == 2
    found = answers.data("neighbours/31")["encoders"]
    both = {one["number"] for one in found[0]["found"]} & {one["number"] for one in found[1]["found"]}
    page.wait_for_selector(f"p:has-text('{len(both)} of 12 neighbours are the same')")
    assert page.locator(".twice .both").count() == 2 * len(both)
    page.get_by_label("Tile (store:row)").fill("drawn-01:2")
    page.keyboard.press("Enter")
    page.wait_for_selector("figcaption:has-text('drawn-01')")
    page.get_by_label("Tile (store:row)").fill("no:1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#said p:has-text(\"no tile 'no:1'\")")


def test_a_synthetic_tile_shows_its_origin_and_how_to_make_it_again(visit: Any, answers: Answers) -> None:
    made = answers.data("synthetic/40")["made"]
    page = visit("synthetic/40")
    page.get_by_role("button", name=f"details of {made[1]['id']}").click()
    page.wait_for_selector(f"section[aria-label] , h2:has-text('{made[1]['id']}')")
    assert page.locator("pre").inner_text() == made[1]["command"]
    page.wait_for_selector("h3:has-text('Copy check')")


def test_an_exported_page_opens_from_disk_with_every_room(
    visit: Any, browser: Any, world: Path, tmp_path: Path
) -> None:
    answers = open_rooms(ViewConfig(paths=[world]))
    total = len(answers.tiles)
    count = export(answers, tmp_path / "page", seed=0, overwrite=False, most=30)
    assert 24 <= count <= 30
    shown = unpack(answers.facts["sample"]["numbers"]).tolist()
    assert answers.facts["sample"]["of"] == total
    for number in shown:  # a family stays together
        family = answers.data(f"synthetic/{number}")
        assert {family["source"], *(one["number"] for one in family["made"])} <= set(shown)
    folder = (tmp_path / "page").rename(tmp_path / "sent to a colleague")
    page = visit("slides", at=(folder / "index.html").as_uri())
    page.wait_for_selector(f"#said p:has-text('{count} of {total} tiles')")
    for room in (
        "slides/drawn-00",
        f"tile/{shown[0]}",
        "map",
        f"neighbours/{shown[0]}",
        f"synthetic/{shown[0]}",
        "run/1",
    ):
        page.evaluate("hash => { location.hash = hash; }", room)
        page.wait_for_timeout(400)
        assert page.locator("main .bad").count() == 0, room
        loaded = (
            "() => [...document.images].every((one) => one.complete && one.naturalWidth > 0 || one.loading === 'lazy')"
        )
        assert page.evaluate(loaded), room
    page.evaluate("() => { location.hash = 'slides/drawn-00'; }")
    page.wait_for_selector("canvas.zoom")
    assert page.locator("main .note").count() == 0  # that a tile is not in the sample is no fault of its store
    assert unpack(page.evaluate("async () => (await H.get('places/0')).present")).all()
    for _ in range(8):  # any tile is a real one: it has neighbours
        page.evaluate("() => { location.hash = ''; location.hash = 'neighbours'; }")
        page.wait_for_selector("h2:has-text('colour-histogram')")
        assert page.locator("p:has-text('has no embeddings')").count() == 0
    page.evaluate("() => { location.hash = 'map'; }")
    page.wait_for_selector("canvas.points")
    page.get_by_role("button", name="Select what is shown").click()
    page.wait_for_selector("h2:has-text('tiles selected')")
    absent = next(number for number in range(total) if number not in shown)
    page = browser.new_page()
    page.goto(f"{(folder / 'index.html').as_uri()}#tile/{absent}")
    page.wait_for_selector("main .bad:has-text('not in the exported sample')")
    page.close()


def test_an_export_leaves_alone_what_it_did_not_make(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="choose another folder"):
            export(open_rooms(ViewConfig(paths=[world / "eldm"])), tmp_path / "mine", seed=0, overwrite=overwrite)
    answers = open_rooms(ViewConfig(paths=[world / "eldm"]))
    assert export(answers, tmp_path / "page", seed=0, overwrite=False) == 0
    with pytest.raises(OutputExistsError, match="--overwrite"):
        export(answers, tmp_path / "page", seed=0, overwrite=False)
    export(answers, tmp_path / "page", seed=0, overwrite=True)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_tile_is_made_anew_with_another_seed_and_another_alpha(visit: Any, answers: Answers) -> None:
    made = answers.data("synthetic/40")["made"][1]
    page = visit(f"synthetic/{made['number']}")
    page.get_by_role("button", name="Make it").click()
    page.wait_for_selector("[role=status]:has-text('The same bytes as in the store.')")
    page.get_by_role("button", name="Again, other seed").click()
    page.wait_for_selector("figcaption:has-text('seed') >> nth=1")
    page.get_by_label("alpha, the weight of the source").focus()
    page.keyboard.press("End")
    page.wait_for_selector("figcaption:has-text('alpha 1, seed')")
    assert page.locator("img[alt^='made anew']").evaluate_all("all => all.every((one) => one.naturalWidth > 0)")


def test_a_slide_that_cannot_be_read_says_why(browser: Any, world: Path, tmp_path: Path) -> None:
    long = "unreadable" * 7
    for name in ("torn", long):
        shutil.copy(world / "slides" / "drawn-00.svs", tmp_path / f"{name}.svs")
    whole = bytearray((tmp_path / "torn.svs").read_bytes())
    with tifffile.TiffFile(tmp_path / "torn.svs") as file:
        places = list(zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True))
    for offset, count in places:
        whole[offset : offset + count] = bytes(count)
    (tmp_path / "torn.svs").write_bytes(whole)
    (tmp_path / f"{long}.svs").write_bytes(b"not a slide" * 99)
    with serving(open_rooms(ViewConfig(paths=[tmp_path]))) as client:
        page = browser.new_page(viewport={"width": 400, "height": 850})
        page.goto(f"{client.server.address}#slides/torn")
        page.wait_for_selector("canvas.zoom")
        page.wait_for_timeout(300)
        page.locator("canvas.zoom").focus()
        for _ in range(8):
            page.keyboard.press("+")
        page.wait_for_selector("#said p:has-text('cannot be read')")
        page.evaluate("hash => { location.hash = hash; }", f"slides/{long}")
        page.wait_for_selector(".note:has-text('cannot be opened')")
        wide = page.evaluate(
            "() => [...document.querySelectorAll('*')].filter((one) => one.getBoundingClientRect().right > 401)"
            ".map((one) => one.outerHTML.slice(0, 120))"
        )
        assert wide == []  # its name is longer than the screen is wide
        page.close()


def test_a_lost_server_is_said(browser: Any, answers: Answers) -> None:
    page = browser.new_page()
    with serving(answers) as client:
        page.goto(f"{client.server.address}#slides/drawn-00")
        page.wait_for_selector("canvas.zoom")
    page.evaluate("() => { location.hash = 'neighbours/5'; }")
    page.wait_for_selector("main .bad:has-text('does not answer')")
    page.close()
