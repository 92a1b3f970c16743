"""The catalogue: what is shipped, and that a wrong entry is named."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from export.catalog import BundleRecipe, Catalog, PackageMirror, UrlMirror, ZipMirror, load_catalog
from service.errors import BundleError
from service.runtime.card import Preprocessing

YUNET = "face_detection_yunet_2023mar.onnx"
SFACE = "face_recognition_sface_2021dec.onnx"
SCRFD = "scrfd_500m_bnkps.onnx"
MBF = "w600k_mbf.onnx"
SCRFD_10G = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"
R50 = "w600k_r50.onnx"
R100 = "glintr100.onnx"
AURAFACE = "auraface_v1_glintr100.onnx"
MV = "face_recognition_mv.pkl"
EDGEFACE = "edgeface_s_gamma_05.onnx"
CENTERFACE = "centerface.onnx"
INSIGHTFACE = "LicenseRef-InsightFace-NonCommercial"

VALID = f"""
[files."d.onnx"]
role = "detector"
architecture = "scrfd"
size = 10
sha256 = "{"a" * 64}"
official = "https://authors.example/d.onnx"
licence = {{ spdx = "MIT", url = "https://authors.example/LICENSE", commercial_use = true }}
mirrors = [
    {{ url = "http://mirror.example/d.onnx" }},
    {{ package = "carrier==1.0", path = "carrier/d.onnx" }},
]

[files."e.onnx"]
role = "embedder"
preprocessing = {{ channels = "BGR", mean = 127.5, scale = 128.0 }}
size = 20
sha256 = "{"b" * 64}"
official = "https://authors.example/e.onnx"
licence = {{ spdx = "CC-BY-NC-4.0", url = "https://authors.example/L", commercial_use = false, permits = "study" }}
mirrors = []

[bundles.small]
version = "3"
description = "Two networks."
detector = "d.onnx"
embedder = "e.onnx"
fusion = "concat"
"""


def load(text: str, folder: Path) -> Catalog:
    path = folder / "catalog.toml"
    path.write_text(text, encoding="utf-8")
    return load_catalog(path)


@pytest.mark.parametrize(
    ("name", "size", "sha256", "spdx", "commercial"),
    [
        (YUNET, 232589, "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4", "MIT", True),
        (SFACE, 38696353, "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79", "Apache-2.0", True),
        (SCRFD, 2524155, "a3562ef62592bf387f6ef19151282ac127518e51c77696e62e0661bee95ba1ad", INSIGHTFACE, False),
        (MBF, 13616099, "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f", INSIGHTFACE, False),
        ("det_10g.onnx", 16923827, SCRFD_10G, INSIGHTFACE, False),
        ("scrfd_10g_bnkps.onnx", 16923827, SCRFD_10G, INSIGHTFACE, False),
        (
            "det_2.5g.onnx",
            3292009,
            "041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9",
            INSIGHTFACE,
            False,
        ),
        (R50, 174383860, "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43", INSIGHTFACE, False),
        (R100, 260665334, "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf", INSIGHTFACE, False),
        (AURAFACE, 260694151, "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60", "Apache-2.0", True),
        (MV, 4990798, "543394742684fac6c73ae3184aa79d504815bebcf6fff6782aabafae0841c697", "Apache-2.0", True),
        (
            EDGEFACE,
            14882726,
            "9fd80dbbb5a839698631df655cdfcd7d9ae9270f801642ab99cf97be685d6a16",
            "CC-BY-NC-SA-4.0",
            False,
        ),
        (CENTERFACE, 7304518, "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc", "MIT", True),
    ],
)
def test_shipped_files_are_the_published_ones(name: str, size: int, sha256: str, spdx: str, commercial: bool) -> None:
    file = load_catalog().files[name]
    assert (file.size, file.sha256, file.licence.spdx) == (size, sha256, spdx)
    assert file.licence.commercial_use is commercial
    assert bool(file.permits) is not commercial


def test_every_shipped_file_has_a_licence_and_a_place_and_may_be_used_by_a_bundle() -> None:
    catalog = load_catalog()
    for file in catalog.files.values():
        assert file.licence.spdx
        assert file.licence.url.startswith("https://")
        assert file.sources
        assert (file.official or file.page).startswith("https://")
    assert {file.name for recipe in catalog.bundles.values() for file in recipe.files} == set(catalog.files)


def test_what_can_be_had_from_the_package_registry_alone() -> None:
    def in_a_package(recipe: BundleRecipe) -> bool:
        return all(any(isinstance(source, PackageMirror) for source in file.sources) for file in recipe.files)

    bundles = load_catalog().bundles
    only = {name for name, recipe in bundles.items() if in_a_package(recipe)}
    assert only == {"open", "mv", "centerface", "edgeface", "buffalo_s"}


def test_every_shipped_address_ends_with_the_name_of_the_file() -> None:
    # Published under another name.
    exceptions = {
        "https://huggingface.co/fal/AuraFace-v1/resolve/main/glintr100.onnx",
        "https://huggingface.co/immich-app/buffalo_m/resolve/main/detection/model.onnx",
    }
    for file in load_catalog().files.values():
        for source in file.sources:
            if isinstance(source, UrlMirror):
                assert source.url.startswith("https://")
                assert source.url.endswith(f"/{file.name}") or source.url in exceptions
            else:
                assert source.path.rpartition("/")[2] == file.name
            assert not isinstance(source, ZipMirror) or source.zip.startswith("https://")


@pytest.mark.parametrize(
    ("name", "detector", "embedder"),
    [
        ("open", YUNET, SFACE),
        ("buffalo_s", SCRFD, MBF),
        ("buffalo_m", "det_2.5g.onnx", R50),
        ("buffalo_l", "det_10g.onnx", R50),
        ("antelopev2", "scrfd_10g_bnkps.onnx", R100),
        ("auraface", YUNET, AURAFACE),
        ("mv", YUNET, MV),
        ("edgeface", YUNET, EDGEFACE),
        ("centerface", CENTERFACE, SFACE),
    ],
)
def test_shipped_bundles(name: str, detector: str, embedder: str) -> None:
    recipe = load_catalog().bundle(name)
    assert (recipe.name, recipe.version, recipe.fusion) == (name, "1", "sum")
    assert [file.name for file in recipe.files] == [detector, embedder]
    assert recipe.description
    expected = {YUNET: "yunet", CENTERFACE: "centerface"}.get(detector, "scrfd")
    assert (recipe.detector.architecture, recipe.detector.preprocessing) == (expected, None)
    given = {
        SFACE: Preprocessing(channels="RGB", mean=0, scale=1),
        MV: Preprocessing(channels="BGR", mean=127.5, scale=128),
    }
    usual = Preprocessing(channels="RGB", mean=127.5, scale=127.5)
    assert recipe.embedder.preprocessing == given.get(embedder, usual)
    assert recipe.embedder.backbone == ("facex-zoo-mobilefacenet" if name == "mv" else None)


def test_the_packs_of_insightface_name_their_archives_and_their_folders() -> None:
    files = load_catalog().files
    release = "https://github.com/deepinsight/insightface/releases/download/v0.7"
    for name, pack, path in (
        ("det_10g.onnx", "buffalo_l", "det_10g.onnx"),
        (R50, "buffalo_l", R50),
        ("det_2.5g.onnx", "buffalo_m", "det_2.5g.onnx"),
        ("scrfd_10g_bnkps.onnx", "antelopev2", "antelopev2/scrfd_10g_bnkps.onnx"),
        (R100, "antelopev2", "antelopev2/glintr100.onnx"),
    ):
        assert files[name].sources[0] == ZipMirror(f"{release}/{pack}.zip", path)


def test_unknown_bundle_lists_the_known_ones(tmp_path: Path) -> None:
    catalog = load(VALID + VALID[VALID.index("[bundles") :].replace("small", "other"), tmp_path)
    with pytest.raises(BundleError, match=r"'opne'.*known: other, small") as caught:
        catalog.bundle("opne")
    assert caught.value.details == {"known": ["other", "small"]}


def test_a_page_is_not_asked_for_the_file(tmp_path: Path) -> None:
    page = VALID.replace('official = "https://authors.example/d', 'page = "https://authors.example/d')
    page = page.replace(
        '{ url = "http://mirror.example/d.onnx" }', '{ zip = "http://mirror.example/d.zip", path = "d" }'
    )
    file = load(page, tmp_path).files["d.onnx"]
    assert (file.official, file.page) == ("", "https://authors.example/d.onnx")
    assert file.sources == (
        ZipMirror("http://mirror.example/d.zip", "d"),
        PackageMirror("carrier==1.0", "carrier/d.onnx"),
    )


def test_sources_begin_with_the_official_address_and_keep_the_order(tmp_path: Path) -> None:
    catalog = load(VALID, tmp_path)
    assert catalog.files["d.onnx"].sources == (
        UrlMirror("https://authors.example/d.onnx"),
        UrlMirror("http://mirror.example/d.onnx"),
        PackageMirror("carrier==1.0", "carrier/d.onnx"),
    )
    assert catalog.files["e.onnx"].licence.commercial_use is False
    assert catalog.bundle("small").fusion == "concat"


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("a" * 64, "A" * 64, r"files\.d\.onnx: sha256 is 'A+', but must be 64 lowercase"),
        ("size = 20", "size = 0", r"files\.e\.onnx: size is 0"),
        ("size = 20", "size = true", r"files\.e\.onnx: size is True, but must be of type int"),
        ("size = 20", "", r"files\.e\.onnx: size is missing"),
        ("size = 20", "size = 20\nsizes = 1", r"files\.e\.onnx: unknown: sizes"),
        ('"embedder"', '"embeder"', r"files\.e\.onnx: role is 'embeder'.*detector, embedder"),
        ("= false", '= "no"', r"files\.e\.onnx: licence: commercial_use is 'no'"),
        ('"MIT"', '" "', r"files\.d\.onnx: licence: spdx is ' '"),
        (', permits = "study"', "", r"files\.e\.onnx: licence: permits is missing"),
        ("= true }", '= true, permits = "all" }', r"files\.d\.onnx: licence: unknown: permits"),
        ('architecture = "scrfd"', "", r"files\.d\.onnx: architecture is missing"),
        ('"scrfd"', '"retinaface"', r"files\.d\.onnx: architecture is 'retinaface'.*yunet, scrfd, centerface"),
        ('"BGR"', '"GBR"', r"files\.e\.onnx: preprocessing: channels is 'GBR'.*RGB, BGR"),
        ("scale = 128.0 }", 'scale = 128.0 }\nbackbone = "resnet"', r"files\.e\.onnx: backbone is 'resnet'.*facex-zoo"),
        ('architecture = "scrfd"', 'architecture = "scrfd"\nbackbone = "x"', r"files\.d\.onnx: unknown: backbone"),
        ("scale = 128.0", "scale = 0.0", r"files\.e\.onnx: preprocessing: scale: .*greater than 0"),
        ("scale = 128.0", "scale = 128", r"files\.e\.onnx: preprocessing: scale is 128, but must be of type float"),
        ('official = "https://authors.example/e.onnx"', "", r"files\.e\.onnx: official is missing"),
        ('{ url = "http://mirror', '{ zip = "http://mirror', r"files\.d\.onnx: mirror 1: path is missing"),
        ("http://mirror.example", "ftp://mirror.example", r"files\.d\.onnx: mirror 1: url is 'ftp://"),
        ("http://mirror.example", "http://[mirror", r"files\.d\.onnx: mirror 1: url is 'http://\[mirror"),
        ('"carrier==1.0"', '"carrier>=1.0"', r"files\.d\.onnx: mirror 2: package is 'carrier>=1.0'"),
        ('"carrier==1.0"', '"--pre==1.0"', r"files\.d\.onnx: mirror 2: package is '--pre==1.0'"),
        ('{ package = "carrier==1.0", path', "{ path", r"files\.d\.onnx: mirror 2: package is missing"),
        ("mirrors = []", 'mirrors = ["x"]', r"files\.e\.onnx: mirror 1: 'x' is not a table"),
        ('[files."e.onnx"]', '[files."../e.onnx"]', r"files\.'\.\./e\.onnx' is not a plain name"),
        ('embedder = "e.onnx"', 'embedder = "x.onnx"', r"bundles\.small: embedder is 'x\.onnx'"),
        (
            'embedder = "e.onnx"',
            'embedder = "d.onnx"',
            r"bundles\.small: embedder is 'd\.onnx'.*no embedder among",
        ),
        ('"concat"', '"mean"', r"bundles\.small: fusion is 'mean'.*none, sum, concat"),
        ("[bundles.small]", "[bundle.small]", r"bundles is missing"),
        ("[bundles.small]", "[bundles.small", r"not valid TOML"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, right: str, wrong: str, complaint: str) -> None:
    assert right in VALID
    with pytest.raises(BundleError, match=complaint) as caught:
        load(VALID.replace(right, wrong), tmp_path)
    assert str(tmp_path / "catalog.toml") in caught.value.message


def test_a_catalogue_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(BundleError, match=f"{re.escape(str(path))} cannot be read: No such file"):
        load_catalog(path)


def test_reading_the_catalogue_needs_only_the_standard_library() -> None:
    code = "import sys, export.catalog; print(sorted({'requests', 'numpy', 'tqdm', 'onnx'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
