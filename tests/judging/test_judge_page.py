"""A judgement's page in a browser: it fits a phone, fetches nothing, and complains of nothing."""

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill import judging


@pytest.mark.slow
def test_the_page_fits_a_phone_and_needs_no_network(browser, tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 6)).astype("float32"), rng.integers(0, 3, 40)
    names = ("a model with a name that goes on", "another_without_a_space_in_it" * 3)
    record = kd.judge(
        dict.fromkeys(names, model),
        data,
        conditions=judging.ColumnNoise.all(),
        splits=[judging.KFold(2)],
        train=data,
        resamples=20,
        verbose=False,
    )
    record.to_html(tmp_path / "judged.html")
    asked, said = [], []
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "judged.html").as_uri())
    assert page.evaluate("document.scrollingElement.scrollWidth") == 390
    assert page.evaluate("document.querySelector('img').naturalWidth") > 390
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert not said
