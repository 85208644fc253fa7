"""VLAD descriptors of images, and the text that describes them."""

import numpy as np
import pytest
import torch

from flowmatch.matching import describe_keypoints, detect_keypoints
from flowmatch.retrieval import VladDescriber, VladOptions, vlad
from flowmatch.retrieval.vlad_describer import learn_vocabulary, parse_about


def test_descriptors_of_an_image(photo):
    describer = VladDescriber(options=VladOptions(words=8, keypoints=100, side=200))
    with pytest.raises(RuntimeError, match="no vocabulary"):
        describer(photo)
    describer.fit([photo])
    descriptor = describer(photo)
    assert descriptor.shape == (8 * 128,)
    assert float(descriptor.norm()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(descriptor, vlad(describer.local(photo), describer.vocabulary))
    again = VladDescriber(*parse_about(describer.about))
    again.restore(describer.state())
    assert again.about == describer.about
    assert torch.equal(again(photo), descriptor)
    assert not again(np.zeros((50, 60, 3), np.uint8)).any()
    with pytest.raises(ValueError, match=r"vocabulary \[8, 128\], got \[3, 128\]"):
        again.restore({"vocabulary": torch.zeros(3, 128)})
    with pytest.raises(ValueError, match="got None"):
        again.restore({})


def test_images_are_reduced(photo):
    describer = VladDescriber(options=VladOptions(keypoints=100, side=10_000))
    keypoints = detect_keypoints(photo, "sift", keypoints=100)
    expected = describe_keypoints(photo, keypoints, model="rootsift")
    assert torch.equal(describer.local(photo), expected)
    small = VladDescriber(options=VladOptions(keypoints=100, side=100))
    assert len(small.local(photo)) < len(expected)


def test_text_of_a_describer():
    options = VladOptions(words=8, keypoints=9, side=10, seed=-3)
    about = VladDescriber("sift", options).about
    assert about == "vlad sift words=8 keypoints=9 side=10 seed=-3"
    assert parse_about(about) == ("sift", options)
    with pytest.raises(ValueError, match="made by VLAD, got 'mean colour'"):
        parse_about("mean colour")


def test_errors():
    with pytest.raises(ValueError, match="as many keypoints"):
        VladDescriber().fit([np.zeros((50, 60, 3), np.uint8)])
    with pytest.raises(ValueError, match="4 words need as many keypoints, got 3 in 2 images"):
        learn_vocabulary([torch.rand(1, 5), torch.rand(2, 5)], VladOptions(words=4))
    with pytest.raises(ValueError, match="rootsift, sift or a network, got 'orb'"):
        VladDescriber("orb")
    with pytest.raises(ValueError, match="words, keypoints and side must be positive, got 0"):
        VladOptions(words=0)
