"""ASAP's, ImageScope's, HALO's and Hamamatsu's XML, written here as these programs do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely

from histogen.errors import SlideError
from histogen.geometry import Extent
from histogen.slides.base import BaseSlide, GlassCentre, Level
from histogen.tiles.annotations.read import Areas, read_areas

RING = [(10.5, 20.0), (110.5, 20.0), (110.5, 70.0), (60.5, 90.25), (10.5, 70.0)]
HOLE = [(20, 30), (40, 30), (40, 50), (20, 50)]
OUTLINE = shapely.Polygon(RING)


def write(folder: Path, text: str, *, name: str = "a.xml", encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def named(areas: Areas) -> list[tuple[str, float]]:
    return [(region.name, round(region.geometry.area, 3)) for region in areas.regions]


def asap(kind: str, group: str, ring: list[tuple[float, float]] = RING, *, comma: bool = False) -> str:
    """The corners stand in the file in another order than ``Order`` says."""
    rows = [f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(ring)]
    text = "".join(rows[::-1])
    text = text.replace(".", ",") if comma else text
    return (
        f'<Annotation Name="Annotation 0" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{text}</Coordinates></Annotation>"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("comma", [False, True])
def test_asap_groups_are_classes(tmp_path: Path, encoding: str, comma: bool) -> None:
    drawn = [asap(*one, comma=comma) for one in (("Polygon", "Metastase é"), ("Spline", "_2"), ("Rectangle", "None"))]
    drawn += [asap("Dot", "x", RING[:1]), asap("PointSet", "x"), asap("Polygon", "x", RING[:2])]
    groups = '<AnnotationGroups><Group Name="_2" PartOfGroup="None" Color="#64FE2E"><Attributes /></Group>'
    text = (
        f"<ASAP_Annotations><Annotations>{''.join(drawn)}</Annotations>{groups}</AnnotationGroups></ASAP_Annotations>"
    )
    head = '<?xml version="1.0"?>\n' if encoding != "utf-16" else '<?xml version="1.0" encoding="utf-16"?>\n'
    areas = read_areas(write(tmp_path, head + text, encoding=encoding))
    assert named(areas) == [("Metastase é", OUTLINE.area), ("_2", OUTLINE.area), ("", OUTLINE.area)]
    assert all(region.geometry.equals(OUTLINE) for region in areas.regions)
    assert (areas.num_flat, areas.of_qupath, areas.on_glass) == (3, False, False)


def image_scope(
    kind: str | None, corners: list[tuple[float, float]], *, hole: str | None = None, text: str = "", v: str = "Vertex"
) -> str:
    said = "".join(f' {k}="{t}"' for k, t in (("Type", kind), ("NegativeROA", hole)) if t is not None)
    rows = "".join(f'<{v} X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
    return f'<Region Id="1"{said} Text="{text}"><Attributes/><Vertices>{rows}</Vertices></Region>'


def layer(*regions: str, name: str | None = "", described: str = "") -> str:
    said = f' Name="{name}"' if name is not None else ""
    attributes = f'<Attributes><Attribute Name="Description" Id="0" Value="{described}"/></Attributes>'
    return f'<Annotation Id="1"{said} LineColor="65280">{attributes}<Regions>{"".join(regions)}</Regions></Annotation>'


def layers(*texts: str) -> str:
    return f'<Annotations MicronsPerPixel="0.25">{"".join(texts)}</Annotations>'


BOX = [(10, 20), (110, 20), (110, 70), (10, 70)]


@pytest.mark.parametrize(
    ("region", "area"),
    [
        (image_scope("0", RING), OUTLINE.area),
        (image_scope(None, RING), OUTLINE.area),
        (image_scope("1", BOX), 5000),
        (image_scope("1", [BOX[0], BOX[2]]), 5000),
        (image_scope("2", [BOX[0], BOX[2]]), np.pi * 50 * 25),
        (image_scope("2", BOX), np.pi * 50 * 25),
        (image_scope("Polygon", RING, v="V"), OUTLINE.area),
        (image_scope("Rectangle", [BOX[2], BOX[0]], v="V"), 5000),
        (image_scope("Ellipse", [BOX[0], BOX[2]], v="V"), np.pi * 50 * 25),
    ],
)
def test_image_scope_s_and_halo_s_shapes(tmp_path: Path, region: str, area: float) -> None:
    for name in ("a.xml", "a.annotations"):
        areas = read_areas(write(tmp_path, layers(layer(region, name="Tumor")), name=name))
        assert areas.regions[0].name == "Tumor"
        assert areas.regions[0].geometry.area == pytest.approx(area, rel=1e-3)
        assert areas.regions[0].geometry.centroid.y == pytest.approx(45 if area != OUTLINE.area else OUTLINE.centroid.y)


def test_a_layer_s_name_is_the_class_else_its_description_else_a_region_s_text(tmp_path: Path) -> None:
    region, said = image_scope("0", RING), image_scope("0", RING, text="Fat")
    text = layers(layer(said, name="Tumor", described="x"), layer(said, described="Stroma"), layer(said, region),
                  layer(region, name=None))  # fmt: skip
    assert [region.name for region in read_areas(write(tmp_path, text)).regions] == ["Tumor", "Stroma", "Fat", "", ""]


def test_negative_regions_are_holes_in_the_larger_ones_of_their_layer(tmp_path: Path) -> None:
    inner = [(25, 35), (30, 35), (30, 40), (25, 40)]
    first = layer(image_scope("0", RING), image_scope("0", HOLE, hole="1"), image_scope("0", inner, hole="0"), name="a")
    second = layer(image_scope("Polygon", RING), name="b")
    areas = read_areas(write(tmp_path, layers(first, second)))
    assert named(areas) == [("a", OUTLINE.area - 400), ("a", 25), ("b", OUTLINE.area)]


@pytest.mark.parametrize("kind", ["3", "4", "5", "Arrow", "Ruler", "Pin"])
def test_arrows_rulers_and_pins_have_no_area(tmp_path: Path, kind: str) -> None:
    areas = read_areas(write(tmp_path, layers(layer(image_scope(kind, RING), image_scope("0", RING), name="a"))))
    assert (len(areas.regions), areas.num_flat) == (1, 1)


class Glass(BaseSlide):
    """4000 x 3000 px of 0.25 x 0.5 microns, whose middle is 100 microns right of the glass's and 50 above it."""

    def _open(self) -> None:
        self.levels = (Level(Extent(4000, 3000), 1.0),)
        self.glass_centre = GlassCentre(2000 - 100_000 / 250, 1500 + 50_000 / 500, 250.0, 500.0)

    def read_level(self, *_: object) -> np.ndarray:
        """Not asked for."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


def nm(x: float, y: float) -> tuple[float, float]:
    """Where a level-0 pixel of Glass lies, nanometres from the glass's centre: independent of its formula."""
    return (x - 2000) * 250 + 100_000, (y - 1500) * 500 - 50_000


def ndpa(kind: str, title: str | None, body: str, *, shown: str = "AnnotateFreehand", unit: str = "nanometers") -> str:
    said = "" if title is None else f"<title>{title}</title>"
    return (
        f"<ndpviewstate id='1'>{said}<details/><coordformat>{unit}</coordformat><lens>0.4</lens><x>0</x><y>0</y>"
        f"<z>0</z><annotation type='{kind}' displayname='{shown}' color='#000000'>{body}</annotation>"
        "</ndpviewstate>"
    )


def points(ring: list[tuple[float, float]], closed: str = "<closed>1</closed>") -> str:
    rows = "".join("<point><x>{:.0f}</x><y>{:.0f}</y></point>".format(*nm(x, y)) for x, y in ring)
    return f"<measuretype>0</measuretype>{closed}<pointlist>{rows}</pointlist>"


def test_ndpa_counts_nanometres_from_the_centre_of_the_glass(tmp_path: Path) -> None:
    x, y = nm(300, 400)
    circle = f"<x>{x:.0f}</x><y>{y:.0f}</y><radius>25000</radius><measuretype>2</measuretype>"
    views = [
        ndpa("freehand", " Tumor ", points(RING)),
        ndpa("freehand", None, points(RING, closed="")),
        ndpa("freehand", "box", points(BOX) + "<specialtype>rectangle</specialtype>", shown="AnnotateRectangle"),
        ndpa("circle", "round", circle, shown="AnnotateCircle"),
        ndpa("freehand", "line", points(RING, closed="<closed>0</closed>"), shown="AnnotateFreehandLine"),
        ndpa("freehand", "line", points(RING, closed=""), shown="AnnotateFreehandLine"),
        ndpa("linearmeasure", "ruler", "<x1>0</x1><y1>0</y1><x2>1</x2><y2>1</y2>"),
        ndpa("pin", "pin", "<x>0</x><y>0</y>"),
    ]
    file = write(tmp_path, f"<?xml version='1.0' encoding='utf-8'?><annotations>{''.join(views)}</annotations>")
    areas = read_areas(file, Glass(tmp_path / "s.ndpi"))
    assert [region.name for region in areas.regions] == ["Tumor", "", "box", "round"]
    assert (areas.on_glass, areas.num_flat) == (True, 4)
    assert areas.regions[0].geometry.symmetric_difference(OUTLINE).area < 1
    assert areas.regions[2].geometry.bounds == pytest.approx((10, 20, 110, 70))
    round_one = areas.regions[3].geometry
    assert round_one.bounds == pytest.approx((200, 350, 400, 450))  # 25 microns: 100 px along x, 50 px along y
    assert round_one.area == pytest.approx(np.pi * 100 * 50, rel=1e-3)
    with pytest.raises(SlideError, match="count from the centre of the glass slide, which the file does not state"):
        read_areas(file)
    pixels = write(tmp_path, f"<annotations>{ndpa('freehand', 'a', points(RING), unit='pixels')}</annotations>")
    with pytest.raises(SlideError, match="its coordinates are in 'pixels', not in nanometers"):
        read_areas(pixels, Glass(tmp_path / "s.ndpi"))


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha"}">' for i in range(10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"<!DOCTYPE Annotations [{LAUGHS}]><Annotations>&l9;</Annotations>", "declares a document type"),
        ('<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><Annotations>&e;</Annotations>', "a document type"),
        ('<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><Annotations/>', "declares a document type"),
        ("<Annotations>&e;</Annotations>", "no XML: undefined entity"),
        ("<Annotations>" + "<a>" * 100_000, "nested more than 50 deep"),
        ("<Annotations><Annotation>", "no XML: no element found"),
        ("<svg/>", "the outermost element is <svg>, where one of"),
        (layers(layer(image_scope("9", RING))), "a region has the type '9'"),
        (layers(layer('<Region><Vertices><Vertex X="a" Y="1"/><Vertex/></Vertices></Region>')), "an X is 'a', not a"),
        (layers(layer(image_scope("0", [(float("nan"), 1), *RING]))), "an X is 'nan', not a number"),
        ("<ASAP_Annotations>" + asap("Polygon", "a").replace('Order="2"', "") + "</ASAP_Annotations>", "an Order is"),
    ],
)
def test_xml_that_cannot_be_meant_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SlideError, match=r"annotations '.*' are not annotations in XML \(.*\); export them") as refused:
        read_areas(write(tmp_path, text))
    assert message in str(refused.value)
    assert len(str(refused.value)) < 500
