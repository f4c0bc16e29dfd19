"""The page in a real browser: it shows, degrades, answers and refuses, and asks nobody but this machine."""

from __future__ import annotations

import json
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from stvg_nst.configuration import merge, read_yaml
from tests.stvg_nst.prediction.adapters import save_random_adapter

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="the web page needs Gradio: pip install -e '.[demo]'")
pytest.importorskip("selenium", reason="a browser is driven by selenium: pip install -e '.[dev]'")
webdriver = pytest.importorskip("selenium.webdriver")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
StaleElementReferenceException = pytest.importorskip("selenium.common.exceptions").StaleElementReferenceException

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Debian's packages chromium and chromium-driver are not installed"
)
WAIT = 300  # seconds, on a machine that has much else to do


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit of the miniature."""
    folder = tmp_path_factory.mktemp("runs") / "mini" / "nst"
    folder.mkdir(parents=True)
    overlays = ("base", "data/mini", "model/mini", "model/mini_weights", "tuner/nst")
    config: dict[str, Any] = {}
    for name in overlays:
        config = merge(config, read_yaml(Path(f"experiments/{name}.yaml")))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    save_random_adapter(folder / "adapter.safetensors", router="shared")
    return folder


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over two rendered clips and one tuned model."""
    from stvg_nst.commands.demo import films
    from stvg_nst.commands.demo.models import Models
    from stvg_nst.commands.demo.server import start

    with pytest.MonkeyPatch.context() as patch, closing(socket.socket()) as free:
        patch.setattr(films, "NUM_CLIPS", 2)
        patch.setenv("GRADIO_TEMP_DIR", "set by the server")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        folder = tmp_path_factory.mktemp("served")
        data = tmp_path_factory.mktemp("data")
        server = start(Models([run.parent]), data=data, folder=folder, host="127.0.0.1", port=port)
        yield f"http://127.0.0.1:{port}/"
        server.close(verbose=False)


@pytest.fixture(scope="module")
def browser(page: str) -> Iterator[Any]:
    """Chromium, which finds no host but this machine, and notes whom it wanted to ask."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1300,1400"),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(WAIT)
    driver.get(page)
    yield driver
    driver.quit()


def wait(driver: Any, selector: str, *, having: str = "") -> Any:
    """The first element of a selector whose text or source has some words in it."""

    def found(driver: Any) -> Any:
        elements = driver.find_elements("css selector", selector)
        fitting = (e for e in elements if having in f"{e.text} {e.get_attribute('src') or ''}")
        return next(fitting, None)

    return WebDriverWait(driver, WAIT, ignored_exceptions=[StaleElementReferenceException]).until(found, selector)


def asked_elsewhere(driver: Any) -> list[str]:
    """Addresses, not of this machine, that the browser wanted something from since it was last asked."""
    urls = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            urls.append(message["params"].get("url") or message["params"]["request"]["url"])
    split = {url: urlsplit(url) for url in urls}
    return [url for url in urls if split[url].scheme not in ("data", "blob") and split[url].hostname != "127.0.0.1"]


@needs_browser
def test_a_visitor_spoils_a_clip_and_sees_what_both_models_say(browser: Any, tmp_path: Path) -> None:
    first = wait(browser, "#preview img").get_attribute("src")
    wait(browser, "#kind input[value='low light']").click()
    WebDriverWait(browser, WAIT).until(lambda driver: wait(driver, "#preview img").get_attribute("src") != first)

    wait(browser, "#ask").click()
    assert "truth" in wait(browser, "#words h3").text
    for name in ("frozen", "tuned"):
        film = wait(browser, f"#{name} video", having="http")
        WebDriverWait(browser, WAIT).until(
            lambda driver, film=film: driver.execute_script("return arguments[0].videoWidth > 0", film)
        )
    assert browser.find_element("css selector", "#words [role=meter]").is_displayed()
    assert "certify" in browser.find_element("css selector", "#certain").text

    wait(browser, "#kind input[value='clean']").click()
    assert wait(browser, "#words", having="Ask both models"), "no answer stands there that is to another question"
    WebDriverWait(browser, WAIT).until(lambda driver: not driver.find_elements("css selector", "#severity input"))

    text = tmp_path / "notes.mp4"
    text.write_text("this is no film")
    browser.find_element("css selector", "#upload input[type=file]").send_keys(str(text))
    refused = wait(browser, "body", having="This film cannot be used: it is truncated or no video")
    assert str(tmp_path.anchor) + "tmp" not in refused.text, "no file of the server is named"

    assert asked_elsewhere(browser) == []
    browser.execute_script("fetch('https://example.org/').catch(() => null)")
    assert WebDriverWait(browser, 30).until(asked_elsewhere) == ["https://example.org/"], "such requests are seen"


def test_no_file_outside_of_the_uploads_is_served(page: str) -> None:
    for path in ("/etc/passwd", str(Path("pyproject.toml").resolve()), "pyproject.toml", "../../pyproject.toml"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{page}gradio_api/file={path}")
        assert refused.value.code in (403, 404)
