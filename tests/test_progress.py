"""What the library says goes through a logger of its own name."""

import logging

from keras_distill.progress import LOG


def test_it_is_written_bare_to_the_output_of_the_moment(capsys):
    LOG.info("%d of %d", 1, 2)
    assert capsys.readouterr() == ("1 of 2\n", "")


def test_a_level_silences_it_and_a_handler_hears_it(capsys):
    heard = []

    class Hearing(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    handler = Hearing()
    LOG.addHandler(handler)
    try:
        LOG.info("heard")
        LOG.setLevel(logging.WARNING)
        LOG.info("not heard")
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(logging.INFO)
    assert heard == ["heard"]
    assert capsys.readouterr().out == "heard\n"


def test_it_is_said_once_where_the_root_has_a_handler(capsys):
    root = logging.StreamHandler()
    logging.root.addHandler(root)
    try:
        LOG.info("once")
    finally:
        logging.root.removeHandler(root)
    assert capsys.readouterr() == ("once\n", "")
