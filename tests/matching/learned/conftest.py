import pytest
import torch

KF = pytest.importorskip("kornia.feature")


def xfeat():
    """Return weights whose maps have peaks, as those of a trained network."""
    network = KF.XFeat().net
    with torch.no_grad():
        network.keypoint_head[-1].weight *= 40
    return network.state_dict()


def keynet():
    """Return weights with a response that is not cut off at 0."""
    network = KF.KeyNet(False)
    with torch.no_grad():
        for parameter in network.last_conv.parameters():
            parameter.abs_()
    return {"state_dict": network.state_dict(), "optimizer": {}}


NETWORKS = {
    "disk": lambda: {"extractor": KF.DISK().state_dict()},
    "aliked": lambda: KF.ALIKED("aliked-n16").state_dict(),
    "xfeat": xfeat,
    "keynet": keynet,
    "loftr": lambda: {
        "state_dict": {
            f"matcher.{key}": value for key, value in KF.LoFTR(None).state_dict().items()
        }
    },
}


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Return the file of a network's random weights, written as its authors write theirs."""
    folder = tmp_path_factory.mktemp("published")

    def write(name):
        path = folder / f"{name}.pth"
        if not path.exists():
            torch.manual_seed(0)
            torch.save(NETWORKS[name](), path)
        return path

    return write
