"""The fetched data sets: local files first, then the network, then an error that helps."""

import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from fedtl import datasets

pd = pytest.importorskip("pandas")

FETCHERS = {
    "fetch_credit_default": ("credit_default/UCI_Credit_Card.csv", (30000, 23), "binary"),
    "fetch_adult": ("adult/adult.train", (48842, 13), "binary"),
    "fetch_heart": ("heart/combined_4hospitals.csv", (920, 13), "binary"),
    "fetch_mfeat": ("mfeat/mfeat-fou.csv", (2000, 123), "multiclass"),
    "fetch_wikipedia": ("wikipedia/Wikipedia.mat", (2866, 138), "multiclass"),
}


@pytest.fixture
def fetch():
    """Return a function that fetches real data, or skips where they are not."""

    def fetch_or_skip(name, **options):
        home = os.environ.get("FEDTL_DATA")
        if not home:
            pytest.skip("FEDTL_DATA names no directory of data sets")
        if not Path(home, FETCHERS[name][0]).is_file():
            pytest.skip(f"{FETCHERS[name][0]} is not in FEDTL_DATA={home}")
        return getattr(datasets, name)(**options)

    return fetch_or_skip


@pytest.fixture
def network(monkeypatch):
    """Cut the network and forget the local directory; return a way to answer in its stead."""
    monkeypatch.delenv("FEDTL_DATA", raising=False)
    asked = []

    def answer(openml=None, csv=None):
        def fetch_openml(name, **options):
            asked.append((name, options))
            if openml is None:
                raise URLError("no network")
            return openml

        def read_csv(source, **options):
            asked.append((source, options))
            if csv is None:
                raise URLError("no network")
            return csv(source, **options)

        monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
        monkeypatch.setattr("pandas.read_csv", read_csv)
        return asked

    return answer


@pytest.mark.parametrize("name", FETCHERS)
def test_real_data_have_their_documented_shape_and_parties(name, fetch):
    _, shape, task = FETCHERS[name]
    bunch = fetch(name)
    assert bunch.data.shape == shape
    assert bunch.target.shape == shape[:1]
    assert bunch.target.dtype == "int64"
    assert sorted(set(bunch.target)) == list(range(len(bunch.target_names)))
    assert [column for block in bunch.parties.values() for column in block] == list(bunch.data)
    assert bunch.task == task
    assert bunch.DESCR


def test_credit_codes_are_categories_and_amounts_are_numbers(fetch):
    bunch = fetch("fetch_credit_default")
    assert set(bunch.data["SEX"].cat.categories) == {"1", "2"}
    assert bunch.data.dtypes.drop(["SEX", "EDUCATION", "MARRIAGE"]).eq("float64").all()
    assert list(bunch.parties) == ["bank", "partner"]
    assert bunch.parties["partner"][:2] == ["PAY_0", "PAY_2"]
    assert bunch.target.mean() == pytest.approx(0.2212)


def test_adult_joins_both_files_and_reads_the_dotted_labels(fetch):
    bunch = fetch("fetch_adult")
    assert bunch.target[:32561].sum() == 7841
    assert bunch.target[32561:].sum() == 3846  # zero if ">50K." were not taken for ">50K"
    assert bunch.data["workclass"].isna().sum() == 2799
    assert "?" not in bunch.data["occupation"].cat.categories
    assert "fnlwgt" not in bunch.data


def test_heart_has_no_impossible_zeros_and_says_whose_row_is_whose(fetch):
    bunch = fetch("fetch_heart")
    assert not bunch.data[["chol", "trestbps"]].eq(0).any().any()
    assert bunch.data.loc[bunch.sample_party == "switzerland", "chol"].isna().all()
    names, counts = np.unique(bunch.sample_party, return_counts=True)
    assert list(names) == ["cleveland", "hungarian", "switzerland", "va"]
    assert list(counts) == [303, 294, 123, 200]
    assert bunch.target.sum() == 509


def test_mfeat_views_are_parties_in_the_order_asked_for(fetch):
    bunch = fetch("fetch_mfeat", views=("mor", "fac"))
    assert list(bunch.parties) == ["mor", "fac"]
    assert list(bunch.data.columns[:7]) == [f"mor_{i}" for i in range(6)] + ["fac_0"]
    assert bunch.data["fac_0"][0] == 98
    assert np.array_equal(bunch.target, np.repeat(np.arange(10), 200))


def test_a_single_view_may_be_given_as_a_name(fetch):
    assert list(fetch("fetch_mfeat", views="mor").parties) == ["mor"]


def test_wikipedia_classes_start_at_zero(fetch):
    bunch = fetch("fetch_wikipedia")
    assert np.bincount(bunch.target)[0] == 172
    assert bunch.data[bunch.parties["text"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("views", [(), ("fou", "fou"), ("fou", "xyz")])
def test_wrong_mfeat_views_are_answered_with_the_right_ones(views):
    with pytest.raises(ValueError, match="fac, fou, kar, mor, pix, zer"):
        datasets.fetch_mfeat(views)


def test_mfeat_files_whose_rows_are_not_aligned_are_refused(tmp_path):
    (tmp_path / "mfeat").mkdir()
    (tmp_path / "mfeat/mfeat-fou.csv").write_text("0,0\n1.5,0\n2.5,1\n")
    (tmp_path / "mfeat/mfeat-zer.csv").write_text("0,0\n1.5,1\n2.5,0\n")
    with pytest.raises(ValueError, match="not aligned"):
        datasets.fetch_mfeat(data_home=tmp_path)


@pytest.mark.parametrize("name", FETCHERS)
def test_without_files_and_network_the_error_says_what_to_do(name, network, tmp_path):
    network()
    with pytest.raises(FileNotFoundError) as error:
        getattr(datasets, name)(data_home=tmp_path)
    assert str(tmp_path / FETCHERS[name][0]) in str(error.value)
    assert "FEDTL_DATA" in str(error.value)
    assert "data_home=" in str(error.value)


@pytest.mark.parametrize("name", FETCHERS)
def test_without_any_directory_the_error_says_that_none_was_named(name, network):
    network()
    with pytest.raises(OSError, match="FEDTL_DATA is not set and data_home is None"):
        getattr(datasets, name)()


def test_the_argument_goes_before_the_environment(network, monkeypatch, tmp_path):
    network()
    monkeypatch.setenv("FEDTL_DATA", str(tmp_path / "from_environment"))
    with pytest.raises(FileNotFoundError, match="from_argument"):
        datasets.fetch_wikipedia(data_home=tmp_path / "from_argument")
    with pytest.raises(FileNotFoundError, match="from_environment"):
        datasets.fetch_wikipedia()


def test_local_files_are_read_without_asking_the_network(monkeypatch, tmp_path):
    def no_network(*args, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", no_network)
    (tmp_path / "adult").mkdir()
    row = "39, State-gov, 7, Bachelors, 13, Single, Sales, Husband, White, Male, 2, 0, 40, ?, "
    (tmp_path / "adult/adult.train").write_text(row + "<=50K\n")
    (tmp_path / "adult/adult.test").write_text("|1x3 Cross validator\n" + row + ">50K.\n\n")
    bunch = datasets.fetch_adult(data_home=tmp_path)
    assert list(bunch.target) == [0, 1]
    assert bunch.data["native-country"].isna().all()


def test_credit_from_openml_gets_the_column_names_of_the_file(network, tmp_path):
    features = pd.DataFrame({f"x{i}": [float(i), 1.0] for i in range(1, 24)})
    asked = network(openml=(features, pd.Series(["1", "0"], dtype="category", name="y")))
    bunch = datasets.fetch_credit_default(data_home=tmp_path)
    assert asked[0][0] == "default-of-credit-card-clients"
    assert asked[0][1]["version"] == 1
    assert asked[0][1]["data_home"] == str(tmp_path)
    assert list(bunch.target) == [1, 0]
    first = bunch.data.iloc[0]
    assert first["LIMIT_BAL"] == 1
    assert first["SEX"] == "2"
    assert first["PAY_0"] == 6
    assert first["BILL_AMT1"] == 12
    assert first["PAY_AMT6"] == 23


def test_adult_from_openml_looks_like_adult_from_the_files(network):
    numbers = {"age": 39, "fnlwgt": 7, "education-num": 13, "capital-gain": 2}
    numbers |= {"capital-loss": 0, "hours-per-week": 40}
    texts = "workclass education marital-status occupation relationship race sex native-country"
    features = pd.DataFrame({**numbers, **dict.fromkeys(texts.split(), "x")}, index=[0, 1])
    asked = network(openml=(features, pd.Series(["<=50K", ">50K"], dtype="category")))
    bunch = datasets.fetch_adult()
    assert asked[0][0] == "adult"
    assert asked[0][1]["version"] == 2
    assert asked[0][1]["data_home"] is None
    assert list(bunch.target) == [0, 1]
    assert bunch.data["sex"].dtype == "category"
    assert bunch.data["age"].dtype == "float64"


def test_heart_from_uci_knows_the_hospital_of_each_file(network):
    row = [63.0, 1.0, 1.0, 145.0, 0.0, 1.0, 2.0, 150.0, 0.0, 2.3, 3.0, 0.0, 6.0]

    def read_csv(url, *, names, **options):
        return pd.DataFrame([[*row, 2 if "va" in url else 0]], columns=names)

    network(csv=read_csv)
    bunch = datasets.fetch_heart()
    assert list(bunch.sample_party) == ["cleveland", "hungarian", "switzerland", "va"]
    assert list(bunch.target) == [0, 0, 0, 1]
    assert bunch.data["chol"].isna().all()


def test_mfeat_from_uci_takes_the_digits_from_the_order_of_rows(network):
    asked = network(csv=lambda url, **options: pd.DataFrame(np.ones((20, 2))))
    bunch = datasets.fetch_mfeat(("fou", "mor"))
    assert [url.rsplit("/", 1)[1] for url, _ in asked] == ["mfeat-fou", "mfeat-mor"]
    assert list(bunch.target) == [digit for digit in range(10) for _ in range(2)]
    assert list(bunch.data) == ["fou_0", "fou_1", "mor_0", "mor_1"]
