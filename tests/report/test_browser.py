"""The page in a browser: what its script does, and what it looks like in the dark, on a phone and on paper."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from ddpm_jax.report import figures

pytestmark = pytest.mark.browser

Driver = webdriver.Chrome
SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,1000"
)
TABLES = ("claims", "likelihood", "optimal", "decomposition", "frechet", "spread", "spread-frechet", "cells")
MAX_BYTES = 1_500_000
TEXT_CONTRAST = 4.5  # WCAG 2.2, criterion 1.4.3
HIDDEN = """return [...arguments[0].querySelectorAll('.curve')].filter(
    curve => curve.dataset.curve === arguments[1]).map(curve => getComputedStyle(curve).display === 'none')"""


def program(*names: str) -> str:
    """The path of the first of the programs that is installed."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(f"none of {', '.join(names)} is installed: the page's test needs Chromium and its driver", False)
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Chromium without a window, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    for switch in SWITCHES.split():
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Driver(options=options, service=Service(program("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Driver, written: Path) -> Driver:
    """The page, freshly opened on a screen in the light."""
    emulate(browser)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((written / "report.html").as_uri())
    return browser


def emulate(driver: Driver, media: str = "", **features: str) -> None:
    """A medium and preferences that CSS can ask for."""
    listed = [dict(name=name.replace("_", "-"), value=value) for name, value in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(media=media, features=listed))


def chart(driver: Driver, name: str) -> WebElement:
    return driver.find_element(By.ID, f"figure-{name}")


def buttons(figure: WebElement) -> dict[str, WebElement]:
    """The buttons of a chart's legend, by what they say."""
    return {button.text: button for button in figure.find_elements(By.CSS_SELECTOR, ".toggles button")}


def tooltip(driver: Driver) -> str:
    """The text of the tooltip; nothing where it is hidden."""
    found = driver.find_element(By.ID, "tooltip")
    return found.text if found.is_displayed() else ""


def points(html: str, figure: str, name: str) -> list[list[Any]]:
    """The points of a curve of the first panel."""
    embedded = re.search(r'<script type="application/json" id="points">(.*?)</script>', html)
    assert embedded is not None
    return next(entry["points"] for entry in json.loads(embedded[1])[figure] if entry["name"] == name)


def point_at(driver: Driver, figure: WebElement, x: float, y: float) -> None:
    """Moves the pointer to a place of a chart, in the units of its SVG."""
    svg = figure.find_element(By.CSS_SELECTOR, ".plot > svg")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    place = "const b = arguments[0].getBoundingClientRect(), v = arguments[0].viewBox.baseVal;"
    scale, width, height = driver.execute_script(f"{place} return [b.width / v.width, b.width, b.height]", svg)
    across, down = round(x * scale - width / 2), round(y * scale - height / 2)
    ActionChains(driver, duration=0).move_to_element_with_offset(svg, across, down).perform()


def luminance(colour: str) -> float:
    """Relative luminance of a computed colour, WCAG 2.2."""
    values = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def computed(driver: Driver, selector: str, name: str) -> str:
    """A computed style of the first element that the selector finds."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    return driver.execute_script(script, selector, name)


def test_the_console_is_quiet_and_nothing_is_fetched(page: Driver, written: Path) -> None:
    for button in page.find_elements(By.CSS_SELECTOR, ".toggles button"):
        page.execute_script("arguments[0].click()", button)
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    fetched = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert (written / "report.html").stat().st_size < MAX_BYTES


def test_every_table_and_figure_has_a_size(page: Driver) -> None:
    names = [f"{name}-table" for name in TABLES]
    names += [f"figure-{name}" for name in (*figures.FIGURES, "samples", "predictions", "neighbours")]
    for name in names:
        size = page.find_element(By.ID, name).size
        assert min(size["width"], size["height"]) > 50, name
    for svg in page.find_elements(By.CSS_SELECTOR, ".plot > svg"):
        assert min(svg.size["width"], svg.size["height"]) > 150


def test_a_button_hides_and_shows_its_curve_in_all_panels(page: Driver) -> None:
    figure = chart(page, "likelihood")
    button, parts = buttons(figure)["large"], page.execute_script(HIDDEN, figure, "large")
    assert len(parts) >= 2 * 4
    assert not any(parts)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert all(page.execute_script(HIDDEN, figure, "large"))
    assert not any(page.execute_script(HIDDEN, figure, "isotropic"))
    assert not any(page.execute_script(HIDDEN, chart(page, "likelihood_difference"), "large"))
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert not any(page.execute_script(HIDDEN, figure, "large"))


def test_a_group_hides_and_shows_its_curves(page: Driver, results: dict[str, Any]) -> None:
    figure, kinds = chart(page, "likelihood"), results["kinds"]
    found = buttons(figure)
    assert set(kinds.values()) <= found.keys()
    drawn = [name for name in kinds if name in found]

    def hidden() -> set[str]:
        return {name for name in drawn if all(page.execute_script(HIDDEN, figure, name))}

    trained = {name for name in drawn if kinds[name] == "trained"}
    found["trained"].click()
    assert hidden() == trained
    found["npr"].click()
    assert hidden() == trained - {"npr"}
    found["trained"].click()
    assert hidden() == set()
    assert "trained" not in buttons(chart(page, "frechet"))


def test_bands_go_with_their_curve(page: Driver) -> None:
    figure = chart(page, "moments")
    buttons(figure)["M_t"].click()
    hidden = page.execute_script(HIDDEN, figure, "M_t")
    assert hidden == [True, True]


def test_all_and_none(page: Driver) -> None:
    figure = chart(page, "frechet")
    found = buttons(figure)
    for word, hidden in (("none", True), ("all", False)):
        found[word].click()
        for name, button in found.items():
            if name not in ("all", "none"):
                assert set(page.execute_script(HIDDEN, figure, name)) == {hidden}
                assert button.get_attribute("aria-pressed") == str(not hidden).lower()


@pytest.mark.parametrize("key", [Keys.SPACE, Keys.ENTER])
def test_a_curve_is_hidden_from_the_keyboard(page: Driver, key: str) -> None:
    figure = chart(page, "reverse_variance")
    button = buttons(figure)["small"]
    page.execute_script("arguments[0].focus()", button)
    ActionChains(page).send_keys(key).perform()
    assert all(page.execute_script(HIDDEN, figure, "small"))
    ActionChains(page).send_keys(key).perform()
    assert not any(page.execute_script(HIDDEN, figure, "small"))


def test_the_pointer_finds_the_value_of_a_point(page: Driver, html: str, results: dict[str, Any]) -> None:
    figure = chart(page, "likelihood")
    rows = [row for row in results["likelihood"] if (row["split"], row["trajectory"]) == ("test", "even")]
    for i, K in enumerate(results["K"][:3]):
        x, y, *_ = points(html, "likelihood", "small")[i]
        point_at(page, figure, x, y)
        (row,) = (row for row in rows if (row["variance"], row["K"]) == ("small", K))
        expected = f"{row['bits_per_dim']:.4g} ± {row['standard_error']:.2g} bits/dim"
        assert tooltip(page).splitlines() == ["small", f"K = {K}", expected]
        ring = figure.find_element(By.CLASS_NAME, "ring")
        assert (float(ring.get_attribute("cx")), float(ring.get_attribute("cy"))) == (x, y)


def test_a_hidden_curve_says_nothing(page: Driver, html: str) -> None:
    figure = chart(page, "likelihood")
    x, y, *_ = points(html, "likelihood", "small")[0]
    buttons(figure)["small"].click()
    point_at(page, figure, x, y)
    assert tooltip(page) == ""
    assert not figure.find_elements(By.CLASS_NAME, "ring")
    buttons(figure)["small"].click()
    point_at(page, figure, x, y)
    assert tooltip(page).startswith("small")


def test_the_tooltip_goes_with_the_pointer_and_stays_in_the_window(page: Driver, html: str) -> None:
    figure = chart(page, "training_loss")
    listed = points(html, "training_loss", "training loss")
    for x, y, *_ in (listed[0], listed[-1]):
        point_at(page, figure, x, y)
        box = page.execute_script("return document.getElementById('tooltip').getBoundingClientRect().toJSON()")
        inside = page.execute_script("return [document.documentElement.clientWidth, innerHeight]")
        assert 0 <= box["left"] and box["right"] <= inside[0]
        assert 0 <= box["top"] and box["bottom"] <= inside[1]
    ActionChains(page, duration=0).move_to_element(
        page.find_element(By.CSS_SELECTOR, "#figure-training_loss strong")
    ).perform()
    assert tooltip(page) == ""


def test_a_click_on_another_chart_moves_the_tooltip(page: Driver, html: str) -> None:
    for name, curve in (("likelihood", "small"), ("training_loss", "training loss")):
        x, y, *_ = points(html, name, curve)[0]
        point_at(page, chart(page, name), x, y)
        ActionChains(page, duration=0).click().perform()
        assert tooltip(page).splitlines()[0] == curve


def test_arrows_walk_along_a_curve(page: Driver, html: str) -> None:
    figure = chart(page, "likelihood")
    plot = figure.find_element(By.CLASS_NAME, "plot")
    page.execute_script("arguments[0].focus({focusVisible: true})", plot)
    assert tooltip(page).splitlines()[:2] == ["small", "K = 10"]
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    assert tooltip(page).splitlines()[:2] == ["small", "K = 25"]
    ActionChains(page).send_keys(Keys.ARROW_DOWN).perform()
    assert tooltip(page).splitlines()[:2] == ["large", "K = 25"]
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert tooltip(page) == ""


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_overflows_a_narrow_window(page: Driver, width: int) -> None:
    phone = dict(width=width, height=844, deviceScaleFactor=2, mobile=True)
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert page.execute_script("return innerWidth") == width
    sizes = page.execute_script(
        "return [...document.querySelectorAll('.plot text')].map(text => parseFloat(getComputedStyle(text).fontSize)"
        " * text.ownerSVGElement.getBoundingClientRect().width / text.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert min(sizes) > 9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_the_light_and_in_the_dark(page: Driver, scheme: str) -> None:
    emulate(page, prefers_color_scheme=scheme)
    background = computed(page, "body", "backgroundColor")
    assert (luminance(background) < 0.05) == (scheme == "dark")
    for selector, name in (
        ("body", "color"),
        (".plot text", "fill"),
        ("figcaption", "color"),
        (".toggles button", "color"),
    ):
        assert contrast(computed(page, selector, name), background) >= TEXT_CONTRAST, selector
    ink = page.execute_script(
        "return getComputedStyle(document.querySelector('#figure-likelihood [data-curve=isotropic] path')).stroke"
    )
    assert contrast(ink, background) >= TEXT_CONTRAST


def test_paper_is_white_and_has_no_buttons(page: Driver) -> None:
    buttons(chart(page, "likelihood"))["large"].click()
    emulate(page, "print", prefers_color_scheme="dark")
    assert computed(page, "body", "backgroundColor") == "rgb(255, 255, 255)"
    assert contrast(computed(page, ".plot text", "fill"), "rgb(255, 255, 255)") >= TEXT_CONTRAST
    page.execute_script("document.getElementById('tooltip').hidden = false")
    for selector in (".toggles", "#tooltip"):
        assert computed(page, selector, "display") == "none", selector
    assert computed(page, ".legend", "display") == "flex"
    assert computed(page, "figure", "breakInside") == "avoid"
    assert not any(page.execute_script(HIDDEN, chart(page, "likelihood"), "large"))
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script("return document.querySelector('details').open")


def test_without_the_script_the_legends_are_labels(browser: Driver, written: Path) -> None:
    emulate(browser)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", dict(value=True))
    try:
        browser.get((written / "report.html").as_uri())
        figure = chart(browser, "likelihood")
        labels = [item.text for item in figure.find_elements(By.CSS_SELECTOR, ".legend li") if item.is_displayed()]
        assert {"small", "large", "isotropic"} <= set(labels)
        assert not figure.find_elements(By.TAG_NAME, "button")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", dict(value=False))
