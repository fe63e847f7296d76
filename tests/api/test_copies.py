"""Models that are pickled, copied and sent to other processes, and weak references to them."""

import concurrent.futures
import copy
import gc
import importlib.util
import multiprocessing
import os
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest

import fastmnv2
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import native
from fastmnv2.weights.untrained import untrained


@pytest.fixture(scope="module")
def in_memory():
    """A model whose weights are not in a file."""
    return fastmnv2.load("untrained", threads=1)


@pytest.fixture(params=["file", "memory"])
def either(request, untrained_native, in_memory):
    return fastmnv2.load(untrained_native, threads=1) if request.param == "file" else in_memory


def same(one, other, images):
    return one.weights == other.weights and (one.embed(images) == other.embed(images)).all()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_round_trip(either, images, protocol):
    again = pickle.loads(pickle.dumps(either, protocol))
    assert again is not either
    assert same(again, either, images)
    assert (again.logits(images) == either.logits(images)).all()
    assert repr(again) == repr(either)
    assert pickle.loads(pickle.dumps(again, protocol)).weights == either.weights


def test_the_number_of_threads_is_pickled(untrained_native, monkeypatch, images):
    again = pickle.loads(pickle.dumps(fastmnv2.load(untrained_native, threads=3)))
    asked = []
    monkeypatch.setattr("fastmnv2.core.threads.resolve", lambda threads: asked.append(threads) or 1)
    again.embed(images[:1])
    assert asked == [3]


def test_models_of_native_files_pickle_as_a_path_and_others_with_their_weights(untrained_native, in_memory):
    assert len(pickle.dumps(fastmnv2.load(untrained_native))) < 2000
    assert len(pickle.dumps(in_memory)) > 5e6


def test_a_pickle_names_the_file_absolutely(untrained_native, images, tmp_path, monkeypatch):
    monkeypatch.chdir(untrained_native.parent)
    data = pickle.dumps(model := fastmnv2.load(untrained_native.name))
    monkeypatch.chdir(tmp_path)
    assert same(pickle.loads(data), model, images[:1])


def test_a_file_that_changed_is_refused(tmp_path, untrained_native):
    path = tmp_path / "w.safetensors"
    path.write_bytes(untrained_native.read_bytes())
    data = pickle.dumps(fastmnv2.load(path))
    native.write(path, replace(fold(untrained(seed=1)), sha256=untrained().sha256))
    with pytest.raises(fastmnv2.WeightsError, match=r"has changed since the model was pickled: expected .* sha256"):
        pickle.loads(data)
    path.write_bytes(b"x")
    with pytest.raises(fastmnv2.WeightsError, match=r"w\.safetensors: "):
        pickle.loads(data)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"w\.safetensors"):
        pickle.loads(data)


def test_a_file_that_changed_before_the_pickle_is_refused(tmp_path, untrained_native):
    path = tmp_path / "w.safetensors"
    path.write_bytes(untrained_native.read_bytes())
    model = fastmnv2.load(path)
    native.write(path, fold(untrained(seed=1)))
    data = pickle.dumps(model)
    with pytest.raises(fastmnv2.WeightsError, match="has changed"):
        pickle.loads(data)


def test_without_its_file_a_model_is_pickled_whole(tmp_path, untrained_native, model, images):
    path = tmp_path / "w.safetensors"
    path.write_bytes(untrained_native.read_bytes())
    loaded = fastmnv2.load(path)
    path.unlink()
    assert (pickle.loads(pickle.dumps(loaded)).embed(images) == model.embed(images)).all()


def test_weights_without_logits_have_none_after_conversion(tmp_path):
    native.write(tmp_path / "w.safetensors", fold(untrained()).without_logits())
    assert not pickle.loads(pickle.dumps(fastmnv2.load(tmp_path / "w.safetensors"))).has_logits


def test_the_unpickling_process_chooses_the_instruction_set(either, images, monkeypatch):
    data = pickle.dumps(either)
    monkeypatch.setenv("FASTMNV2_ISA", "scalar")
    again = pickle.loads(data)
    assert again.isa == "scalar"
    assert (again.embed(images[:1]) == either.embed(images[:1])).all()


def test_copies_are_the_model_itself(either):
    assert copy.copy(either) is either
    assert copy.deepcopy({"model": [either]})["model"][0] is either


def test_weak_references(untrained_native):
    model = fastmnv2.load(untrained_native)
    reference = weakref.ref(model)
    cache = weakref.WeakValueDictionary(model=model)
    assert reference() is cache["model"] is model
    del model
    gc.collect()
    assert reference() is None
    assert not cache


def embedded(model, images):
    return os.getpid(), model.embed(images)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_pools_of_processes(either, images, method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        answers = [pool.submit(embedded, either, images[i : i + 3]) for i in range(4)]
        for i, answer in enumerate(answers):
            process, features = answer.result(timeout=120)
            assert process != os.getpid()
            assert (features == either.embed(images[i : i + 3])).all()


def test_joblib(either, images):
    if not importlib.util.find_spec("joblib"):
        pytest.skip("joblib is not installed")
    import joblib

    parts = joblib.Parallel(n_jobs=2)(joblib.delayed(either.embed)(images[i : i + 1]) for i in range(4))
    assert (np.concatenate(parts) == either.embed(images[:4])).all()


def test_cloudpickle(either, images):
    if not importlib.util.find_spec("cloudpickle"):
        pytest.skip("cloudpickle is not installed")
    import cloudpickle

    again = pickle.loads(cloudpickle.dumps(lambda batch: either.embed(batch[::-1])[::-1]))
    assert (again(images[:2]) == either.embed(images[:2])).all()


def test_a_scikit_learn_clone(either):
    if not importlib.util.find_spec("sklearn"):
        pytest.skip("scikit-learn is not installed")
    from sklearn.base import clone
    from sklearn.preprocessing import FunctionTransformer

    assert clone(FunctionTransformer(either.embed)).func.__self__ is either
