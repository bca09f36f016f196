//! The service mesh that needs no sidecar: the in-process client and server runtime for tonic and tower services.
