"""The panels of docs/grafana.json as a picture, from a real Prometheus; where no Grafana can be installed.

    python bench/dashboard.py --scrape 127.0.0.1:8000 --seconds 600 -o docs/images/dashboard.png

Starts the `prometheus` of the machine (apt-get install prometheus), lets it scrape the gateway for so long, asks it
every panel's own query, and draws the answers in the dashboard's grid. It shows that the queries find something, not
what Grafana looks like. One JSON line: the series of each panel.
"""

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import matplotlib.pyplot as plt
from common import emit, process

from serve.engine import free_port

DASHBOARD = Path(__file__).parent.parent / "docs" / "grafana.json"
CONFIG = """\
global: {{scrape_interval: 5s}}
scrape_configs: [{{job_name: gamyeon, static_configs: [{{targets: ["{}"]}}]}}]
"""
RATE_INTERVAL = "20s"  # Grafana takes four scrapes
STEP = 5.0  # seconds


def series(prometheus: str, target: dict[str, str], begin: float, end: float) -> dict[str, list[tuple[float, float]]]:
    """What one query of a panel found: by legend, minutes since the beginning and values."""
    query = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
    asked = {"query": query, "start": begin, "end": end, "step": STEP}
    reply = httpx.get(f"{prometheus}/api/v1/query_range", params=asked).raise_for_status().json()
    legend = target.get("legendFormat") or target["expr"]
    found = {}
    for row in reply["data"]["result"]:
        name = re.sub(r"\{\{(\w+)\}\}", lambda mark, labels=row["metric"]: labels.get(mark[1], ""), legend)
        found[name] = [((float(at) - begin) / 60, float(value)) for at, value in row["values"] if value != "NaN"]
    return {name: points for name, points in found.items() if points}


def draw(panels: list[dict[str, Any]], prometheus: str, begin: float, end: float, out: Path) -> dict[str, int]:
    """Write the picture; returns the number of series of each panel."""
    mpl.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(13, height * 0.3), layout="constrained")
    grid = figure.add_gridspec(height, 24)
    counts = {}
    for panel in panels:
        at = panel["gridPos"]
        axes = figure.add_subplot(grid[at["y"] : at["y"] + at["h"], at["x"] : at["x"] + at["w"]])
        lines = [pair for target in panel["targets"] for pair in series(prometheus, target, begin, end).items()]
        for name, points in lines:
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
        axes.set(title=f"{panel['title']} ({panel['fieldConfig']['defaults']['unit']})", xlabel="min")
        axes.set_ylim(bottom=0)
        if lines:
            axes.legend(fontsize=6, ncols=2, loc="upper left", framealpha=0.6)
        counts[panel["title"]] = len(lines)
    figure.savefig(out, dpi=80)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scrape", required=True, help="host:port of the gateway")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config, port = Path(folder) / "prometheus.yml", free_port()
        config.write_text(CONFIG.format(given.scrape))
        command = [
            "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        with process(command, Path(folder) / "log", {}):
            begin = time.time()
            time.sleep(given.seconds)
            panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
            emit(picture=str(given.out), series=draw(panels, f"http://127.0.0.1:{port}", begin, time.time(), given.out))


if __name__ == "__main__":
    main()
