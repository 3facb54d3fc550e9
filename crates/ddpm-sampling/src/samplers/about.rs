//! What there is to say about a sampler.

/// Noise levels that suit a sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// Even in time, both ends included: for samplers that keep x_0 and eps as they are within a step.
    Times,
    /// Even in the logarithm of sigma: for samplers that extrapolate along it, which the huge steps between the first
    /// sigmas of a cosine schedule lead astray.
    Sigmas,
    /// Multiples of one whole stride of steps, the noisiest of which are left out: for linear multistep methods, which
    /// were made for it. Without steps to count, as `Sigmas`.
    Strides,
}

/// What a sampler's file says about it, whatever its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is and what it is good for, in one line for people.
    pub description: &'static str,
    /// Steps that it takes unless told otherwise; all that there are if `None`.
    pub default_steps: Option<usize>,
    /// The levels that it visits unless told otherwise.
    pub grid: Grid,
    /// The order with which it claims to converge to the solution of the probability-flow ODE, as long as it
    /// draws no noise on the way; `None` if it always draws some, or chooses its own steps.
    pub order: Option<u32>,
}
