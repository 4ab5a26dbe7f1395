"""For all tests: no network, caches inside the checkout, one thread each (two workers share two cores).

Set before anything is imported, because these libraries read their environment once.
"""

from __future__ import annotations

import os
from pathlib import Path

_CACHE = Path(__file__).resolve().parents[1] / ".cache"
os.environ.setdefault("SVP_CACHE", str(_CACHE / "svp_nlp"))
os.environ.setdefault("HF_HOME", str(_CACHE / "huggingface"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
