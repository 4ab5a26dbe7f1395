"""The paper's text normalisation, against a plain re-statement and against the very tools of the scripts."""

from __future__ import annotations

import re
import shutil
import subprocess

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svp_nlp.models.normalize import normalize_texts, text_buffers

TEXTS = st.text(st.sampled_from(list("aBÉß '\".,()!?;:<br />/\t\n-&1\x00")) | st.characters(codec="utf-8"), max_size=60)
BREAKS = st.lists(
    st.sampled_from(["<br />", "<BR />", '<b"r />', "<br/>", "<<br />", '"', "<br ", "x", " ", "<br  />"])
)

SED = [
    *("-e", r"s/'/ ' /g", "-e", 's/"//g', "-e", r"s/\./ \. /g", "-e", r"s/<br \/>/ /g", "-e", "s/,/ , /g"),
    *("-e", "s/(/ ( /g", "-e", "s/)/ ) /g", "-e", r"s/\!/ \! /g", "-e", r"s/\?/ \? /g"),
    *("-e", r"s/\;/ /g", "-e", r"s/\:/ /g"),
]


def plain(text: str) -> str:
    text = re.sub("[A-Z]", lambda m: m[0].lower(), text)
    for old, new in [("'", " ' "), ('"', ""), (".", " . "), ("<br />", " "), (",", " , "), ("(", " ( "), (")", " ) ")]:
        text = text.replace(old, new)
    for old, new in [("!", " ! "), ("?", " ? "), (";", " "), (":", " ")]:
        text = text.replace(old, new)
    return re.sub(" +", " ", text)


@settings(deadline=None)
@given(st.lists(TEXTS | BREAKS.map("".join), max_size=5))
@example(["<br />", 'a<b"r /"> b', "'.'", "", '"'])
def test_equals_the_replacements_one_after_the_other(texts):
    assert normalize_texts(pa.array(texts, pa.large_string())).to_pylist() == [plain(text) for text in texts]


@pytest.mark.skipif(not (shutil.which("sed") and shutil.which("tr")), reason="needs sed and tr")
def test_equals_sed_and_tr_of_the_scripts():
    lines = [
        'It\'s "GOOD", (really); see: http://x.y/z<br /><BR />Next!? &amp; é ÉCOLE - 3.5/5',
        '  two  blanks\tand a tab "" <b"r /> <br/> ...',
        "''",
    ]
    lowered = subprocess.run(
        ["tr", "[:upper:]", "[:lower:]"], input="\n".join(lines).encode(), capture_output=True, check=True
    ).stdout
    edited = subprocess.run(["sed", *SED], input=lowered, capture_output=True, check=True).stdout
    squeezed = subprocess.run(["tr", "-s", " "], input=edited, capture_output=True, check=True).stdout
    assert normalize_texts(pa.array(lines)).to_pylist() == squeezed.decode().split("\n")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_slices_and_chunks_give_the_same_texts(kind):
    texts = pa.array(["A.", "é!", "", "B;C", 'q"Q'], kind)
    expected = normalize_texts(texts).to_pylist()
    assert normalize_texts(texts.slice(1, 3)).to_pylist() == expected[1:4]
    chunked = pa.chunked_array([texts.slice(0, 2), texts.slice(2, 0), texts.slice(2)])
    assert normalize_texts(chunked).to_pylist() == expected
    assert normalize_texts(pa.chunked_array([], type=kind)).to_pylist() == []


def test_buffers_of_a_slice_are_not_copied():
    texts = pa.array(["abc", "de", "f"], pa.large_string())
    data, offsets = text_buffers(texts.slice(1))
    assert data.ctypes.data == texts.buffers()[2].address
    assert bytes(data[offsets[0] : offsets[1]]) == b"de"
