"""One repository of the Hub: a Hub that says nothing is given up on."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import get_session

from svp_nlp.errors import HubError
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.retry import Patience


def test_a_hub_that_accepts_and_never_answers_is_given_up_on(hub):
    patience = Patience(deadline_s=0.2, first_wait_s=0.01, answer_s=0.1)
    before = get_session().timeout
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = Remote("alice/silent", "dataset", token="hf_" + "a" * 30, patience=patience)
        remote.api.endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for ask in (remote.head, remote.tags, remote.sign_in):
            with pytest.raises(HubError, match=r"the Hub did not take it within 0.2 s \(last: ReadTimeout"):
                ask()
    assert get_session().timeout == before
