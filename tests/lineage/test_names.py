"""Names of datasets, as the standard has them."""

from __future__ import annotations

import pytest

from airflow_bitahub.lineage.names import Name, name_of

PLATFORM = "bitahub://platform.test:8080"


@pytest.mark.parametrize(
    ("path", "storage_uri", "name"),
    [
        ("/models/_u/mnist", "", Name(PLATFORM, "models/_u/mnist", "model")),
        ("/models/_u/mnist/3", "s3://b", Name(PLATFORM, "models/_u/mnist", "model", "3")),
        ("/models/_u/mnist/3/dense", "", Name(PLATFORM, "models/_u/mnist", "model", "3")),
        ("/servings/mnist", "s3://b", Name(PLATFORM, "servings/mnist", "serving")),
        ("/datasets/_u/MNIST", "", Name(PLATFORM, "datasets/_u/MNIST", "folder")),
        ("/datasets/_u/MNIST", "file:///mnt/a b", Name("file", "/mnt/a b/datasets/_u/MNIST", "folder")),
        ("/datasets/_u/MNIST", "/mnt/bitahub", Name("file", "/mnt/bitahub/datasets/_u/MNIST", "folder")),
        ("/datasets/_u/MNIST", "file://nas/vol", Name("file://nas", "/vol/datasets/_u/MNIST", "folder")),
        ("/datasets/_u/MNIST", "s3://bucket", Name("s3://bucket", "datasets/_u/MNIST", "folder")),
        ("/datasets/_u/MNIST", "s3://aws_default@bucket/p", Name("s3://bucket", "p/datasets/_u/MNIST", "folder")),
        ("/datasets/_u/MNIST/", "gcs://bucket/p", Name("gs://bucket", "p/datasets/_u/MNIST", "folder")),
        ("/datasets/_u/MNIST", "hdfs://conn@node:9000/p", Name("hdfs://node:9000", "/p/datasets/_u/MNIST", "folder")),
    ],
)
def test_a_path_is_named_by_where_it_is(path: str, storage_uri: str, name: Name) -> None:
    assert name_of(path, "platform.test:8080", storage_uri) == name
