"""The client's calls about data sets; a base of Client."""

from collections.abc import Iterator

from nasmesh.client.calls import Calls
from nasmesh.client.names import search_name
from nasmesh.client.transfer import chunks
from nasmesh.clock import new_id
from nasmesh.ids import format_name, parse_name
from nasmesh.v1 import dataset_pb2, object_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb


class DatasetCalls(Calls):
    """Read, upload, create and delete data sets."""

    def get_dataset(self, name: str, *, search: str = "") -> dataset_pb2.Dataset:
        """Return one data set by "datasets/{id}" or its id; with `search`, what that search uses under this name.

        Raises NotFound (DATASET_UNKNOWN, SEARCH_UNKNOWN, OBJECT_MISSING), Unavailable (STORE_DOWN).
        """
        request = pb.GetDatasetRequest(name=dataset_name(name), search=search_name(search) if search else "")
        return self._call(lambda: self._stub.GetDataset(request)).dataset

    def upload_dataset_object(self, content: bytes) -> object_pb2.ObjectRef:
        """Store a shard or a manifest of a data set, at most 64 MiB, and return its reference.

        Raises Invalid (OBJECT_EMPTY, OBJECT_TOO_LARGE, OBJECT_DIGEST_MISMATCH), Unavailable (STORE_DOWN).
        """

        def requests() -> Iterator[pb.UploadDatasetObjectRequest]:
            return (pb.UploadDatasetObjectRequest(chunk=part, sha256=digest) for part, digest in chunks(content))

        return self._call(lambda: self._stub.UploadDatasetObject(requests())).object

    def create_dataset(
        self, dataset_id: str, manifest: object_pb2.ObjectRef, *, request_id: str = ""
    ) -> dataset_pb2.Dataset:
        """Give a name to an uploaded manifest.

        Raises Invalid (NAME_INVALID, MANIFEST_INVALID), NotFound (OBJECT_MISSING), Conflict (DATASET_EXISTS), Busy
        (QUOTA_EXCEEDED).
        """
        request = pb.CreateDatasetRequest(dataset_id=dataset_id, manifest=manifest, request_id=request_id or new_id())
        return self._call(lambda: self._stub.CreateDataset(request)).dataset

    def delete_dataset(self, name: str, *, request_id: str = "") -> None:
        """Forget the name of an added data set; raises NotFound (DATASET_UNKNOWN), Stale (DATASET_BUILT_IN)."""
        request = pb.DeleteDatasetRequest(name=dataset_name(name), request_id=request_id or new_id())
        self._call(lambda: self._stub.DeleteDataset(request))


def dataset_name(name: str) -> str:
    """Return "datasets/{id}" for it or a bare id; raises Invalid (NAME_INVALID)."""
    identifier = parse_name("datasets", name) if "/" in name else name
    return format_name("datasets", identifier)
