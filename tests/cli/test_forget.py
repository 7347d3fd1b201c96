"""The commands that erase and examine: what they ask, print, and end with."""

import json
from pathlib import Path

from featurestore import FeatureStore
from tests.cli.conftest import Invoke


def test_forget_counts_asks_and_erases_and_unforget_lets_back(invoke: Invoke, shop: Path) -> None:
    counted = invoke("-C", shop, "forget", "customer", "customer_id=1001", "--dry-run")
    assert "found in" in counted.output
    refused = invoke("-C", shop, "forget", "customer", "customer_id=1001", code=2)
    assert "add --yes, or look first with --dry-run" in " ".join(refused.output.replace("│", " ").split())
    done = json.loads(invoke("-C", shop, "forget", "customer", "customer_id=1001,1002", "--yes", "--json").output)
    assert (done["entities"], done["dry_run"]) == (2, False)
    assert {"history", "online"} <= {each["place"] for each in done["erased"]}
    again = invoke("-C", shop, "forget", "customer", "customer_id=1001", "--yes")
    assert "0 rows and values are erased" in again.output
    assert "its entity was forgotten" in invoke("-C", shop, "materialize", "--start", "0001-01-01").output
    assert "1 customer may come back." in invoke("-C", shop, "unforget", "customer", "customer_id=1001").output
    unknown = invoke("-C", shop, "forget", "custmer", "x=1", code=1).output
    assert "No entity with views is named 'custmer'. Did you mean 'customer'" in unknown
    assert "no key 'uid'" in invoke("-C", shop, "forget", "customer", "uid=1", "--yes", code=1).output


def test_delete_project_counts_asks_and_removes(invoke: Invoke, shop: Path) -> None:
    assert "Deleting the project would remove this" in invoke("-C", shop, "delete-project", "--dry-run").output
    invoke("-C", shop, "delete-project", code=2)
    told = json.loads(invoke("-C", shop, "delete-project", "--yes", "--json").output)
    assert {"offline store", "online store", "registry"} == {each["place"] for each in told["removed"]}
    assert (shop / "featurestore.toml").exists()
    invoke("-C", shop, "apply", "--yes")
    invoke("-C", shop, "materialize")


def test_doctor_ends_with_1_where_something_is_wrong(invoke: Invoke, shop: Path) -> None:
    assert json.loads(invoke("-C", shop, "doctor", "--json").output)["well"] is True
    for file in (shop / ".featurestore" / "online").iterdir():
        file.unlink()
    told = invoke("-C", shop, "doctor", code=1).output
    assert "featurestore materialize --rebuild-online" in " ".join(told.split())
    assert "values were written online" in " ".join(invoke("-C", shop, "doctor", "--repair").output.split())
    (shop / "featurestore.toml").write_text('projekt = "x"\n')
    assert "Did you mean 'project'" in invoke("-C", shop, "doctor", code=1).output


def test_k18_who_was_looked_up_is_found_by_a_digest(invoke: Invoke, shop: Path) -> None:
    with FeatureStore(shop) as store:
        digest = store.admin.entity_digests.of("customer", {"customer_id": 1001})
    of = ("-C", shop, "audit", "--entity", "customer")
    assert invoke(*of, "--key", "customer_id=1001").output.strip() == digest
    assert json.loads(invoke(*of, "--key", "customer_id=1001", "--json").output) == {"digest": digest}
    assert "has the join keys customer_id" in " ".join(invoke(*of, "--key", "id=1001", code=1).output.split())
    invoke(*of, code=2)
