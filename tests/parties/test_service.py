"""A party answers within its policy, about rows that it knows, while a session lasts."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fedtl import Encoder
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.parties import PartyService, Policy, Table
from fedtl.protocols import ANSWERS, latent, moments, predict, session
from fedtl.wire import Message, message

BLOCK = np.random.default_rng(0).normal(size=(30, 3))
BLOCK[4] = np.nan
KNOWN = np.delete(np.arange(30), 4)


def service(policy=None, encoder=None):
    return PartyService("shop", Table(BLOCK), encoder or Encoder(), ANSWERS, policy=policy)


def opened(party, name="s", prepared=True):
    """Open a session on all rows of the table."""
    party.answer(session.Open(session=name, resume=False, ids=np.arange(30)))
    if prepared:
        party.answer(session.Prepare(session=name, n_bins=4, seed=0))
    return party


def moments_request(rows, folds=None, weight=None, n_folds=2, name="s"):
    rows = np.asarray(rows)
    return moments.MomentsRequest(
        session=name,
        n_folds=n_folds,
        rows=rows.astype(np.uint32),
        folds=np.asarray(np.arange(len(rows)) % n_folds if folds is None else folds, np.uint8),
        weight=np.ones(len(rows)) if weight is None else weight,
        targets=np.ones((len(rows), 1)),
    )


def model_request(rows, name="s", width=16, keep=False):
    return moments.Model(
        session=name,
        keep=keep,
        rows=np.asarray(rows, np.uint32),
        folds=np.zeros(len(rows), np.uint8),
        held_out=np.zeros((2, width, 1)),
        coefficients=np.zeros((width, 1 if keep else 0)),
    )


def begin_request(name="s", **changed):
    fields = {
        "members": 2,
        "n_components": 3,
        "n_exchanges": 4,
        "local_updates": 1,
        "n_local_rows": 5,
        "lr": 0.05,
        "seed": 0,
        "keep_encoder": False,
    }
    return latent.Begin(session=name, **(fields | changed))


def exchange_request(rows, gradient=None, name="s"):
    gradient = np.empty((2, 0, 3), np.float32) if gradient is None else gradient
    return latent.Exchange(session=name, rows=np.asarray(rows, np.uint32), gradient=gradient)


def encode_request(rows, name="s"):
    return latent.Encode(session=name, rows=np.asarray(rows, np.uint32))


def predict_request(n, name="s"):
    return predict.Request(session=name, ids=np.arange(n), scores=True, trees=True, latents=True)


def end_request(name="s"):
    return session.End(session=name)


@pytest.mark.parametrize(
    ("protocol", "request_"),
    [
        ("session", session.Open(session="t", resume=False, ids=np.arange(3))),
        ("session", session.Prepare(session="s", n_bins=4, seed=0)),
        ("session", end_request()),
        ("moments", moments_request(KNOWN)),
        ("moments", model_request(KNOWN)),
        ("latent", begin_request()),
        ("latent", exchange_request(KNOWN)),
        ("latent", encode_request(KNOWN)),
        ("predict", predict_request(3)),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_protocol_that_the_policy_does_not_name_is_refused(protocol, request_):
    others = frozenset({"session", "moments", "latent", "predict"} - {protocol})
    with pytest.raises(PolicyRefusal, match=f"party 'shop': .*not allow .*'{protocol}'") as refused:
        service(Policy(protocols=others)).answer(request_)
    assert ", ".join(sorted(others)) in str(refused.value)
    assert refused.value.party == "shop"
    # With only this protocol allowed the request may still be unanswerable, but is not refused.
    try:
        service(Policy(protocols=frozenset({protocol}))).answer(request_)
    except PolicyRefusal:
        pytest.fail("refused a protocol that the policy names")
    except PartyError:
        pass


def test_without_a_policy_every_protocol_is_answered():
    party = opened(service())
    width = party.sessions["s"].features.encoding_.width + 1
    assert width == 16
    party.answer(moments_request(KNOWN))
    party.answer(model_request(KNOWN, keep=True))
    party.answer(begin_request())
    party.answer(exchange_request(KNOWN[:3]))
    party.answer(encode_request(KNOWN))
    party.answer(end_request())
    reply = party.answer(predict_request(6))
    assert reply.known.tolist() == [True, True, True, True, False, True]
    assert reply.scores.shape == (6, 1)
    assert reply.latents.shape == (2, 6, 3)
    assert not reply.latents[:, 4].any()


def test_a_sum_over_too_few_rows_is_refused_and_over_enough_is_not():
    party = opened(service(Policy(min_rows=5)))
    with pytest.raises(PolicyRefusal, match=r"'shop': a sum over 4 rows .* answers from 5 on"):
        party.answer(moments_request(KNOWN[:4], n_folds=1))
    party.answer(moments_request(KNOWN[:5], n_folds=1))


SINGLED_OUT = np.zeros(20)
SINGLED_OUT[0] = 1.0


@pytest.mark.parametrize(
    "request_",
    [
        moments_request(KNOWN[:20], folds=SINGLED_OUT),
        moments_request(KNOWN[:20], weight=SINGLED_OUT, n_folds=1),
        moments_request([7] * 20, n_folds=1),
    ],
    ids=["alone in its fold", "alone with a weight", "repeated"],
)
def test_a_sum_that_singles_out_one_row_among_many_is_refused(request_):
    with pytest.raises(PolicyRefusal):
        opened(service(Policy(min_rows=5))).answer(request_)


def test_fits_are_counted_over_all_sessions():
    party = opened(opened(service(Policy(max_fits=2)), "a"), "b")
    for name, resume in [("c", False), ("a", True)]:
        with pytest.raises(PolicyRefusal, match="'shop': its policy allows 2 fits; all are used"):
            party.answer(session.Open(session=name, resume=resume, ids=np.arange(3)))
    assert "c" not in party.sessions


def test_predicted_rows_are_counted_and_a_refused_request_costs_nothing():
    party = opened(service(Policy(max_predicted_rows=10)))
    party.answer(predict_request(6))
    with pytest.raises(PolicyRefusal, match=r"'shop': .*10 predicted rows; 6 are used and 5 more"):
        party.answer(predict_request(5))
    party.answer(predict_request(4))
    with pytest.raises(PolicyRefusal, match="10 are used and 1 more"):
        party.answer(predict_request(1))


def test_another_table_shares_sessions_and_quotas():
    party = opened(service(Policy(max_predicted_rows=10, max_fits=1)))
    view = party.with_table(Table(BLOCK[:2]))
    assert view.answer(predict_request(6)).known.tolist() == [True, True] + [False] * 4
    with pytest.raises(PolicyRefusal, match="6 are used"):
        party.answer(predict_request(6))
    with pytest.raises(PolicyRefusal, match="1 fits"):
        opened(view, "t")


@pytest.mark.parametrize(
    "request_",
    [
        session.Prepare(session="gone", n_bins=4, seed=0),
        end_request("gone"),
        moments_request(KNOWN, name="gone"),
        model_request(KNOWN, name="gone"),
        begin_request("gone"),
        exchange_request(KNOWN, name="gone"),
        encode_request(KNOWN, name="gone"),
        predict_request(3, "gone"),
        session.Open(session="gone", resume=True, ids=np.arange(3)),
    ],
    ids=lambda value: value.kind,
)
def test_a_session_that_was_never_opened_or_is_gone_answers_nothing(request_):
    with pytest.raises(PartyError, match="party 'shop': the session has ended; fit the estimator"):
        opened(service()).answer(request_)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (moments_request(KNOWN), "no fit is under way"),
        (model_request(KNOWN), "no fit is under way"),
        (exchange_request(KNOWN), "no joint training is under way"),
        (encode_request(KNOWN), "no joint training is under way"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_once_training_has_ended_training_rows_are_forgotten(request_, said):
    party = opened(service())
    party.answer(begin_request())
    party.answer(exchange_request(KNOWN[:3]))
    party.answer(end_request())
    with pytest.raises(PartyError, match=f"party 'shop': {said}"):
        party.answer(request_)
    kept = party.sessions["s"]
    assert kept.columns is None
    assert len(kept.ids) == len(kept.known) == 0
    assert not [key for key in kept.state if not key.startswith("fitted")]
    assert party.answer(predict_request(3)).known.all()


@pytest.mark.parametrize("rows", [[30], [2**32 - 1], [4], [0, 1, 4], [0, 30]])
@pytest.mark.parametrize("ask", [moments_request, model_request, exchange_request, encode_request])
def test_a_row_out_of_range_or_unknown_to_the_party_is_refused(ask, rows):
    party = opened(service())
    party.answer(begin_request())
    with pytest.raises(PartyError, match="party 'shop': a row was asked for that it does not know"):
        party.answer(ask(rows))


def test_rows_are_not_read_before_they_are_prepared():
    with pytest.raises(PartyError, match="no fit is under way"):
        opened(service(), prepared=False).answer(moments_request(KNOWN))


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 2), (1, 3, 3), (2, 3, 1)])
def test_a_gradient_that_belongs_to_no_batch_is_refused(shape):
    party = opened(service())
    party.answer(begin_request())
    party.answer(exchange_request(KNOWN[:3]))
    with pytest.raises(PartyError, match="party 'shop': a gradient came that belongs to no batch"):
        party.answer(exchange_request(KNOWN[:3], np.zeros(shape, np.float32)))


@message("test.stranger/1")
class Stranger(Message):
    """A declared message that no protocol of the party answers."""


def test_a_message_of_no_known_protocol_is_refused():
    with pytest.raises(PartyError, match=r"'shop': does not understand .*'test\.stranger/1'"):
        service().answer(Stranger())
    with pytest.raises(PartyError, match=r"'session\.opened/1'"):
        service().answer(session.Opened(known=np.ones(1, bool)))


@pytest.mark.parametrize(
    ("request_", "prepared"),
    [
        (moments_request(KNOWN, folds=np.full(29, 7)), True),
        (moments_request(KNOWN, folds=np.zeros(29), n_folds=-1), True),
        (moments_request(KNOWN, folds=np.zeros(29), n_folds=10**13), True),
        (model_request(KNOWN, width=9), True),
        (begin_request(members=-1), True),
        (begin_request(), False),
        (session.Prepare(session="s", n_bins=4, seed=-1), False),
    ],
    ids="fold n_folds huge_n_folds width members unprepared seed".split(),
)
def test_a_request_that_makes_no_sense_is_an_error_of_the_party(request_, prepared):
    with pytest.raises(PartyError):
        opened(service(), prepared=prepared).answer(request_)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("frozen", "kept"),
    [
        (False, []),
        (["0.*", "1.*"], ["0.weight", "0.bias", "1.weight", "1.bias"]),
        (["3.weight"], ["3.weight"]),
    ],
)
def test_fine_tuning_changes_copies_only_and_frozen_parameters_not_even_there(frozen, kept):
    module = network()
    module[3].bias.requires_grad_(False)
    state, grads = (
        copy.deepcopy(module.state_dict()),
        [p.requires_grad for p in module.parameters()],
    )
    party = opened(service(encoder=Encoder(module, frozen=frozen, lr=0.01)))
    party.answer(begin_request(local_updates=2))
    for _ in range(3):
        latents = party.answer(exchange_request(KNOWN[:8])).latents
        party.answer(exchange_request([], np.ones_like(latents)))
    party.answer(encode_request(KNOWN))

    assert [p.requires_grad for p in module.parameters()] == grads
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    encoder = party.sessions["s"].state["fitted.encoder"]
    assert len(encoder.trunks) == 2
    for trunk in encoder.trunks:
        same = [n for n, p in trunk.named_parameters() if torch.equal(p, state[n])]
        assert same == kept
        # The statistics of a frozen normalisation are the pretrained ones.
        frozen_norm = "1.weight" in kept
        assert torch.equal(trunk[1].running_mean, state["1.running_mean"]) == frozen_norm


def test_a_fully_frozen_module_is_not_trained_at_all():
    module = network()
    state = copy.deepcopy(module.state_dict())
    party = opened(service(encoder=Encoder(module, frozen=True)))
    party.answer(begin_request())
    latents = party.answer(exchange_request(KNOWN[:8])).latents
    party.answer(exchange_request([], np.ones_like(latents)))
    party.answer(encode_request(KNOWN))
    assert len(party.sessions["s"].state["fitted.encoder"].trunks) == 0
    own = party.sessions["s"].features.module_
    for name, value in state.items():
        assert torch.equal(module.state_dict()[name], value), name
        assert torch.equal(own.state_dict()[name], value), name


def test_any_recipe_with_the_four_settings_will_do():
    recipe = SimpleNamespace(module=None, preprocessor=None, frozen=False, lr=None)
    assert opened(service(encoder=recipe)).sessions["s"].features.encoding_.width == 15


def test_a_fit_that_resumes_keeps_the_encoding_and_the_encoder():
    party = opened(service())
    party.answer(begin_request())
    party.answer(encode_request(KNOWN[:2]))
    party.answer(end_request())
    features = party.sessions["s"].features
    encoding = features.encoding_
    party.answer(session.Open(session="s", resume=True, ids=np.arange(10)))
    party.answer(session.Prepare(session="s", n_bins=9, seed=1))
    assert party.sessions["s"].features is features
    assert features.encoding_ is encoding
    encoder = party.sessions["s"].state["fitted.encoder"]
    party.answer(begin_request(keep_encoder=True))
    party.answer(encode_request(KNOWN[:2]))
    assert party.sessions["s"].state["fitted.encoder"] is encoder


def test_a_session_opened_anew_starts_from_nothing():
    party = opened(service())
    party.answer(model_request(KNOWN, keep=True))
    features = party.sessions["s"].features
    opened(party)
    assert party.sessions["s"].features is not features
    assert party.answer(predict_request(3)).scores.shape == (3, 0)
