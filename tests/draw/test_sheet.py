"""Contact sheets: positions, frames, captions, and errors."""

import numpy as np
import pytest

from flowmatch.draw import contact_sheet

RED = np.full((20, 40, 3), (200, 0, 0), np.uint8)


def test_pictures_are_centred_in_squares_and_large_ones_reduced():
    large = np.full((400, 200), 90, np.uint8)
    page = contact_sheet([RED, large, RED], ["a", "b", "c"], columns=2, side=100)
    assert page.shape == (2 * (100 + 18 + 8) + 8, 2 * 108 + 8, 3)
    assert (page[8 + 40 : 8 + 60, 8 + 30 : 8 + 70] == RED).all()
    assert (page[8:108, 116 + 25 : 116 + 75] == 90).all()
    assert (page[8:108, 8 + 71 : 108] == 255).all()


def test_frames_and_captions():
    page = contact_sheet([RED, RED], ["x" * 200, ""], side=64, framed=[True, False])
    green = (page == (64, 160, 90)).all(2)
    assert green[:, :76].any()
    assert not green[:, 76:].any()
    caption = page[8 + 64 : 8 + 64 + 18]
    assert caption[:, 8:72].min() < 128
    assert caption[:, 76:].min() == 255  # a long caption is cut


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "got 0 and 0"),
        (([RED], []), "got 1 and 0"),
        (([RED], ["a"], 0), "columns must be positive"),
        (([RED / 255], ["a"]), "image must be uint8"),
    ],
)
def test_errors(arguments, message):
    pictures, captions, *columns = arguments
    with pytest.raises(ValueError, match=message):
        contact_sheet(pictures, captions, columns=columns[0] if columns else 4)
