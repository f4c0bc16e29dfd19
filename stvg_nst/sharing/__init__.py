"""Adapters that are shared: a folder by the conventions of the Hugging Face hub, fetched and sent by its own client."""

from stvg_nst.sharing.hub import PREFIX, adapter_file, check_name, fetch, is_reference, send

__all__ = ["PREFIX", "adapter_file", "check_name", "fetch", "is_reference", "send"]
