//! From `--device wgpu:1` to a Burn [`Device`]: with the Cargo features, the only place that names backends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use burn::tensor::{Device, Tensor};
use ddpm_kernels::Precision;

/// Why a device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name is unknown.
    #[error("{requested}: no such device; compiled in here: {compiled}. {SYNTAX}")]
    Unknown {
        /// The requested device, and where it was requested.
        requested: String,
        /// The backends of this build.
        compiled: String,
    },
    /// The backend exists, but this build does not have it.
    #[error(
        "{requested}: the backend `{backend}` is not compiled in; compiled in here: {compiled}. \
         Build again with `--features {backend}`"
    )]
    NotCompiledIn {
        /// The requested device, and where it was requested.
        requested: String,
        /// The Cargo feature that brings it.
        backend: &'static str,
        /// The backends of this build.
        compiled: String,
    },
    /// The index after the colon is invalid.
    #[error("{requested}: `{index}` is not a device of {backend}. {SYNTAX}")]
    BadIndex {
        /// The requested device, and where it was requested.
        requested: String,
        /// The part after the colon.
        index: String,
        /// The backend it was meant for.
        backend: &'static str,
    },
    /// The backend is compiled in, but the device does not work.
    #[error(
        "{requested}: the device is missing or does not work: {reason}\n\
         {needs}. `ddpm-infer devices` lists the available ones; compiled in here: {compiled}"
    )]
    NotThere {
        /// The requested device, and where it was requested.
        requested: String,
        /// The message of the backend.
        reason: String,
        /// Requirements of the backend.
        needs: &'static str,
        /// The backends of this build.
        compiled: String,
    },
    /// The device does not support this precision.
    #[error("--device {device} does not compute in {}; it does in {possible}", .precision.name())]
    Precision {
        /// The device.
        device: String,
        /// The requested precision.
        precision: Precision,
        /// The precisions that it supports.
        possible: String,
    },
}

const SYNTAX: &str = "Write NAME or NAME:INDEX, for example flex, cuda:0, wgpu, wgpu:1, wgpu:cpu, tch, tch:cuda:0";

/// All backends, in the order in which they become the default, and whether this build has them.
const BACKENDS: [(&str, bool); 9] = [
    ("cuda", cfg!(feature = "cuda")),
    ("metal", cfg!(feature = "metal")),
    ("rocm", cfg!(feature = "rocm")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("cpu", cfg!(feature = "cpu")),
    ("tch", cfg!(feature = "tch")),
    ("ndarray", cfg!(feature = "ndarray")),
    ("flex", cfg!(feature = "flex")),
];

/// The environment variable for the default device. Burn's own default device obeys it too.
const VARIABLE: &str = "BURN_DEVICE";

/// Requirements of a backend, for error messages.
fn requirements(backend: &str) -> &'static str {
    match backend {
        "wgpu" => {
            "wgpu needs a graphics card with a driver for Vulkan, Metal or DirectX 12. Without a card Mesa's software \
             driver will do, slowly: on Debian and Ubuntu, `apt-get install mesa-vulkan-drivers`"
        }
        "vulkan" => "vulkan needs a graphics card with a Vulkan driver",
        "metal" => "metal needs macOS and its graphics card",
        "cuda" => "cuda needs an NVIDIA graphics card, its driver and CUDA 12",
        "rocm" => "rocm needs an AMD graphics card and ROCm",
        "tch" => "tch needs the LibTorch that it was built with, and for tch:cuda:0 one with CUDA",
        _ => "this backend needs a processor only",
    }
}

/// The names of the backends in this build, the default first.
pub fn compiled_in() -> Vec<&'static str> {
    BACKENDS.iter().filter(|(_, present)| *present).map(|(name, _)| *name).collect()
}

/// A working device, and its name in the form that `--device` takes.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    /// The device, without autodiff.
    pub device: Device,
    /// Its name, for logs and manifests.
    pub name: String,
}

impl OpenDevice {
    /// The name of the hardware, from the driver or the system.
    pub fn hardware(&self) -> String {
        let processor = || if self.is_on_host() { processor() } else { None };
        driver_name(&self.device).or_else(processor).unwrap_or_else(|| self.name.clone())
    }

    /// An error unless the device supports this precision.
    pub fn check(&self, precision: Precision) -> Result<(), DeviceError> {
        if precision.is_supported(&self.device) {
            return Ok(());
        }
        let possible = Precision::ALL.into_iter().filter(|one| one.is_supported(&self.device));
        let possible = possible.map(Precision::name).collect::<Vec<_>>().join(", ");
        Err(DeviceError::Precision { device: self.name.clone(), precision, possible })
    }

    /// A remark on a precision in place of which this device computes in another one.
    pub fn precision_note(&self, precision: Precision) -> Option<String> {
        let used = precision.on(&self.device);
        (used != precision).then(|| {
            let (wanted, used) = (precision.name(), used.name());
            format!("{} computes in {used}: this processor multiplies {wanted} no faster", self.name)
        })
    }

    fn is_on_host(&self) -> bool {
        matches!(self.name.as_str(), "flex" | "ndarray" | "cpu" | "tch" | "tch:cpu")
    }

    /// Its memory in GiB, if that is the memory of this machine and `/proc` states it.
    pub fn memory_gib(&self) -> Option<f64> {
        self.is_on_host().then(crate::memory::total)?.map(|bytes| bytes as f64 / f64::from(1 << 30))
    }

    /// A remark on the first steps, for backends that compile and tune their kernels at first use.
    pub fn first_use(&self) -> Option<&'static str> {
        let backend = self.name.split(':').next().unwrap_or_default();
        (!matches!(backend, "flex" | "ndarray" | "tch")).then_some(
            "the first steps compile kernels and try which are fastest (autotune): this can take minutes, and is not \
             counted in images/s",
        )
    }
}

/// The name that the driver gives, on backends that have one.
fn driver_name(device: &Device) -> Option<String> {
    #[cfg(feature = "cubecl")]
    return device.identity().map(|identity| identity.name);
    #[cfg(not(feature = "cubecl"))]
    {
        let _ = device;
        None
    }
}

/// The name of the processor, if `/proc` states it.
fn processor() -> Option<String> {
    let about = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let name = about.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'))?.1.trim();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Some(format!("{name}, {threads} threads"))
}

/// The devices of a backend on this machine.
#[derive(Debug)]
pub enum Presence {
    /// This build does not have it.
    NotCompiledIn,
    /// It is compiled in, but no device works; with the reason.
    NoDevice(String),
    /// The devices that work.
    Devices(Vec<OpenDevice>),
}

/// Tries all devices of all backends.
pub fn survey() -> Vec<(&'static str, Presence)> {
    let presence = |(backend, compiled): (&'static str, bool)| match compiled {
        false => (backend, Presence::NotCompiledIn),
        true => (backend, try_all(backend)),
    };
    BACKENDS.into_iter().map(presence).collect()
}

fn try_all(backend: &str) -> Presence {
    let mut found = Vec::new();
    let mut reason = None;
    for kind in kinds(backend) {
        // Indices have no gaps, so the first that fails is the end.
        for number in 0.. {
            match open(Some(&kind.replace('#', &number.to_string()))) {
                Ok(device) => found.push(device),
                Err(DeviceError::NotThere { reason: why, .. }) => {
                    reason.get_or_insert(why);
                    break;
                }
                Err(_) => break,
            }
            if !kind.contains('#') {
                break;
            }
        }
    }
    match found.is_empty() {
        true => Presence::NoDevice(reason.unwrap_or_else(|| "none works".into())),
        false => Presence::Devices(found),
    }
}

/// The kinds of devices of a backend as `--device` takes them, with `#` for their number.
fn kinds(backend: &str) -> Vec<String> {
    let kinds: &[&str] = match backend {
        "wgpu" | "vulkan" | "metal" => &[":#", ":integrated-#", ":virtual-#", ":cpu"],
        "cuda" | "rocm" => &[":#"],
        "tch" => &["", ":cuda:#"],
        _ => &[""],
    };
    kinds.iter().map(|kind| format!("{backend}{kind}")).collect()
}

/// The device that others are compared with.
pub fn reference() -> Result<Device, DeviceError> {
    open(Some("flex")).map(|open| open.device)
}

/// The default device, which is that of `BURN_DEVICE` or else the first backend of this build, and where it comes from,
/// for messages.
fn default_device() -> (String, String) {
    match std::env::var(VARIABLE) {
        Ok(name) if !name.is_empty() => (name.clone(), format!("{VARIABLE}={name}")),
        _ => {
            let name = compiled_in().first().copied().unwrap_or("flex");
            (name.into(), format!("{name}, the default device"))
        }
    }
}

/// The name of the default device.
pub fn default_name() -> String {
    default_device().0
}

/// Opens the device of this name, or the default one, and computes something on it.
pub fn open(name: Option<&str>) -> Result<OpenDevice, DeviceError> {
    let (name, requested) = name.map_or_else(default_device, |name| (name.into(), format!("--device {name}")));
    let name = name.to_lowercase();
    let (backend, index) = name.split_once(':').map_or((name.as_str(), None), |(b, i)| (b, Some(i)));
    let known = BACKENDS.iter().find(|(known, _)| *known == backend);
    let compiled = compiled_in().join(", ");
    match known {
        None => return Err(DeviceError::Unknown { requested, compiled }),
        Some((backend, false)) => return Err(DeviceError::NotCompiledIn { requested, backend, compiled }),
        Some((_, true)) => {}
    }
    #[cfg(feature = "cubecl")]
    without_fusion();
    // Backends panic where a driver or an adapter is missing.
    let device = catch_panic(|| {
        construct(backend, index).inspect(|device| {
            let _ = Tensor::<1>::ones([2], device).sum().into_scalar::<f32>();
        })
    });
    match device {
        Ok(Some(device)) => Ok(OpenDevice { device, name }),
        Ok(None) => Err(DeviceError::BadIndex {
            index: index.unwrap_or_default().to_string(),
            backend: known.map_or("flex", |(name, _)| name),
            requested,
        }),
        Err(reason) => Err(DeviceError::NotThere { requested, reason, needs: requirements(backend), compiled }),
    }
}

/// Disables fusion: together with autotune it gives wrong gradients (tracel-ai/burn#5257, and on wgpu our
/// own conformance suite).
#[cfg(feature = "cubecl")]
fn without_fusion() {
    for name in burn_cubecl::fusion::BUILTIN_NAMES {
        // An error says that a device is open already, and thus that this was done.
        let _ = burn_cubecl::fusion::remove(name);
    }
}

/// `None` where the index is not one of the backend's.
fn construct(backend: &str, index: Option<&str>) -> Option<Device> {
    #[cfg(any(feature = "cuda", feature = "rocm", feature = "tch"))]
    let number = |text: Option<&str>| text.map_or(Some(0_usize), |text| text.parse().ok());
    match (backend, index) {
        #[cfg(feature = "flex")]
        ("flex", None) => Some(Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", None) => {
            // Deprecated by Burn since 0.22, supported here while Burn has it.
            #[allow(deprecated)]
            Some(Device::ndarray())
        }
        #[cfg(feature = "tch")]
        ("tch", index) =>
        {
            #[allow(deprecated)]
            match index.map(|index| index.split_once(':').unwrap_or((index, "0"))) {
                None | Some(("cpu", _)) => Some(Device::libtorch()),
                Some(("cuda", gpu)) => number(Some(gpu)).map(Device::libtorch_cuda),
                Some(("mps", _)) => Some(Device::libtorch_mps()),
                Some(_) => None,
            }
        }
        #[cfg(feature = "cpu")]
        ("cpu", None) => Some(Device::cpu()),
        #[cfg(feature = "cuda")]
        ("cuda", index) => number(index).map(Device::cuda),
        #[cfg(feature = "rocm")]
        ("rocm", index) => number(index).map(Device::rocm),
        #[cfg(feature = "wgpu")]
        ("wgpu", index) => wgpu_kind(index).map(Device::wgpu),
        #[cfg(feature = "vulkan")]
        ("vulkan", index) => wgpu_kind(index).map(Device::vulkan),
        #[cfg(feature = "metal")]
        ("metal", index) => wgpu_kind(index).map(Device::metal),
        _ => None,
    }
}

/// `N` is the Nth discrete GPU; `integrated-N`, `virtual-N` and `cpu` name the others.
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
fn wgpu_kind(index: Option<&str>) -> Option<burn::tensor::DeviceKind> {
    use burn::tensor::DeviceKind;
    let Some(index) = index else { return Some(DeviceKind::DefaultDevice) };
    match index.split_once('-') {
        None if index == "cpu" => Some(DeviceKind::Cpu),
        None => index.parse().ok().map(DeviceKind::DiscreteGpu),
        Some(("integrated", number)) => number.parse().ok().map(DeviceKind::IntegratedGpu),
        Some(("virtual", number)) => number.parse().ok().map(DeviceKind::VirtualGpu),
        Some(_) => None,
    }
}

/// The first panic during a call of [`catch_panic`].
type Captured = Arc<Mutex<Option<String>>>;

/// The calls of [`catch_panic`] that are running.
static ACTIVE: Mutex<Vec<Captured>> = Mutex::new(Vec::new());

/// Runs `f`, and returns the message of a panic as an error instead of printing it: of the first panic, which may be that
/// of a thread of the backend, the cause of the panic in `f`.
pub fn catch_panic<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(capture_panics);
    let captured = Captured::default();
    locked(&ACTIVE).push(captured.clone());
    let result = catch_unwind(AssertUnwindSafe(f));
    locked(&ACTIVE).retain(|other| !Arc::ptr_eq(other, &captured));
    let reason = locked(&captured).take();
    result.map_err(|_| reason.unwrap_or_else(|| "the backend gave no reason".into()))
}

/// Installs a hook that stores panics for the active calls, and prints them as before if there are none.
fn capture_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let active = locked(&ACTIVE).clone();
        if active.is_empty() {
            return usual(panic);
        }
        let message = panic.payload_as_str().unwrap_or("the backend gave no reason").lines().next().unwrap_or_default();
        for captured in active {
            locked(&captured).get_or_insert_with(|| message.to_string());
        }
    }));
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_default_device_works_and_has_a_name() {
        let open = open(None).unwrap();
        assert_eq!(open.name, default_name());
    }

    #[test]
    fn a_backend_that_is_not_compiled_in_is_refused_with_its_feature() {
        let Some((missing, _)) = BACKENDS.iter().find(|(_, present)| !present) else { return };
        let message = open(Some(missing)).unwrap_err().to_string();
        assert!(message.contains(&format!("--features {missing}")), "{message}");
        assert!(message.contains(compiled_in()[0]), "{message}");
    }

    #[test]
    fn the_reason_is_the_first_panic() {
        let broken = catch_panic(|| {
            let _ = std::thread::spawn(|| panic!("no adapter\nand more")).join();
            panic!("the other thread is gone");
        });
        assert_eq!(broken.unwrap_err(), "no adapter");
        assert_eq!(catch_panic(|| 7), Ok(7));

        // Several at once, and inside each other. All panics of this test binary are in this test, because every call captures all of them.
        let inside = || assert_eq!(catch_panic(|| catch_panic(|| panic!("broken"))), Ok(Err::<(), _>("broken".into())));
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| (0..50).for_each(|_| inside())))));
    }

    #[test]
    fn unknown_names_and_indices_are_refused() {
        assert!(matches!(open(Some("toaster")), Err(DeviceError::Unknown { .. })));
        assert!(matches!(open(Some("flex:7")), Err(DeviceError::BadIndex { .. })));
    }
}
