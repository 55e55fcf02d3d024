"""Known vulnerabilities of the pinned packages: `make audit` (pip-audit, fetched when it is asked for).

Exit status 1 for a vulnerability; where pip-audit or its data cannot be reached this is said, and it is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Ask both services that pip-audit knows."""
    for service in ("pypi", "osv"):
        command = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "pip-audit", "--requirement",
                   str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip", "--format", "json",
                   "--progress-spinner", "off", "--vulnerability-service", service]
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            found = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError, TypeError):
            last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            print(f"audit: {service} cannot be asked here ({last[:160]})")
            continue
        asked = [p for p in found if "skip_reason" not in p]
        if not asked:
            print(f"audit: {service} knows nothing of the packages here ({found[0]['skip_reason'][:120]})")
            continue
        bad = [(p["name"], p.get("version"), v["id"]) for p in found for v in p.get("vulns", [])]
        for name, version, vulnerability in bad:
            print(f"audit: {name} {version} has {vulnerability}")
        print(f"audit: {len(asked)} of {len(found)} packages known to {service}, {len(bad)} known vulnerabilities")
        return len(bad) > 0
    print("audit: not done, the data are out of reach; run it again with a network")
    return 0


if __name__ == "__main__":
    sys.exit(main())
