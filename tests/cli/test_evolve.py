"""mergekit-darwin-evolve: its help costs nothing."""

from __future__ import annotations

import subprocess
import sys
import time


def test_help_loads_no_torch_and_is_quick():
    code = (
        "import sys\nfrom mergekit_darwin.cli.evolve import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'cma', 'numpy', 'mergekit'} & set(sys.modules)\n"
    )
    began = time.process_time()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.process_time() - began < 0.5
