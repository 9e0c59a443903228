"""What these tests share: torch's number of threads as it was, and a small data set on disk."""

import pytest
import torch

from iprm.vqa.data.generate.files import Settings, write


@pytest.fixture(autouse=True, scope="module")
def keep_threads():
    """Training sets the number of threads; of a module, so that fixtures may train too."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def clevr(tmp_path_factory):
    """A folder with CLEVR's files, 40 training and 20 validation questions; to be read alone."""
    folder = tmp_path_factory.mktemp("clevr")
    write(folder, Settings(train_scenes=8, val_scenes=4, questions_per_scene=5))
    return folder


@pytest.fixture(scope="session")
def settings():
    """Those of `folder`."""
    return Settings(train_scenes=12, val_scenes=4, questions_per_scene=6, min_objects=3, max_objects=5)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, settings):
    """A folder with CLEVR's files whose scenes differ in their numbers of objects; to be read alone."""
    folder = tmp_path_factory.mktemp("clevr")
    write(folder, settings)
    return folder
