//! Likelihoods of decoders: how probable data are under what a network puts out. All are natural logarithms.

pub mod discretized_logistic;
pub mod logistic_mixture;
