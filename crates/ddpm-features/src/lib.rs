//! No code: the manifest of this crate asks for one set of features of third-party crates, so that the trainer, the
//! sampler and the tests of every crate share one compile of them.
