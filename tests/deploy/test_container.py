"""The start script and the settings of the container image, tested without Docker."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVE = ROOT / "deploy" / "serve.sh"
STARTED_WITHIN_SECONDS = 600


def status(port: int, host: str, path: str = "") -> int | None:
    """The status of the page's answer to a request with this host name; None before it answers."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers={"Host": host})
        ) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, ConnectionError):
        return None


def test_the_page_has_a_login_and_knows_its_host_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "ABQ_DATA_DIR": str(tmp_path),
        "ABQ_PASSWORD": "a long password",
        "SPACE_HOST": "demo.hf.space",
        # In the image `abq` is on the search path; here it is beside the Python that runs the tests.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    process = subprocess.Popen(["sh", SERVE], env={**os.environ, **own}, cwd=ROOT)
    try:
        deadline = time.monotonic() + STARTED_WITHIN_SECONDS
        while (found := status(port, "demo.hf.space")) is None:
            assert process.poll() is None and time.monotonic() < deadline, "the page did not start"
            time.sleep(0.2)
        assert found == 200
        assert status(port, "other.example") == 400
        assert status(port, "demo.hf.space", "config") == 401
    finally:
        process.terminate()
        process.wait()
    accounts = tmp_path / "accounts"
    assert "visitor" in accounts.read_text() and "a long password" not in accounts.read_text()
    assert accounts.stat().st_mode & 0o077 == 0


def test_without_a_password_nothing_is_served(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ABQ_PASSWORD"}
    done = subprocess.run(
        ["sh", SERVE], env={**environment, "ABQ_DATA_DIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode != 0 and "Set ABQ_PASSWORD" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_space_uses_the_port_and_command_of_the_image() -> None:
    front = yaml.safe_load((ROOT / "deploy" / "space" / "README.md").read_text("utf-8").split("---")[1])
    image = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    assert front["sdk"] == "docker" and f"EXPOSE {front['app_port']}" in image
    assert 'CMD ["deploy/serve.sh"]' in image and os.access(SERVE, os.X_OK)
    assert set(re.findall(r"torch==(\S+)", image)) == {
        re.search(r"torch==(\d[^\"]*)\"", (ROOT / "Makefile").read_text("utf-8")).group(1)  # type: ignore[union-attr]
    }
