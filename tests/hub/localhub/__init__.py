"""A small Hugging Face Hub for tests, on loopback, for the real `huggingface_hub` and `datasets` clients.

Every repository is a bare git repository; large files are git-lfs objects next to it. An emulator, made from what the
clients send and expect; it was never compared with huggingface.co.

    with LocalHub(tmp_path) as hub:               # a thread in this process; or: python -m localhub --root DIR
        os.environ["HF_ENDPOINT"] = hub.endpoint  # before huggingface_hub or datasets are imported
"""

from .cards import validate_card
from .faults import Fault
from .record import calls
from .routing import User
from .server import ALICE, ALICE_READ, BOB, LocalHub

__all__ = ["ALICE", "ALICE_READ", "BOB", "Fault", "LocalHub", "User", "calls", "validate_card"]
