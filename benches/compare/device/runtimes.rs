//! The runtimes by name: those in this build, and the Cargo features of the others.

use burn::tensor::Device;

/// A runtime that this build has.
#[derive(Clone, Copy)]
pub struct Runtime {
    pub name: &'static str,
    pub open: fn() -> Device,
    /// The drivers and libraries that the machine must have.
    pub needs: &'static str,
}

/// A runtime that may or may not be in this build.
struct Known {
    /// The name of the runtime and of its Cargo feature.
    name: &'static str,
    open: Option<fn() -> Device>,
    needs: &'static str,
}

const VULKAN: &str = "a driver of Vulkan and its loader (libvulkan.so.1)";
const CUDA: &str = "an NVIDIA GPU and its driver (libcuda.so)";
const ROCM: &str = "an AMD GPU and ROCm (libamdhip64.so)";

macro_rules! known {
    ($name:literal, $open:expr, $needs:expr) => {{
        #[cfg(feature = $name)]
        let open: Option<fn() -> Device> = Some(|| $open);
        #[cfg(not(feature = $name))]
        let open = None;
        Known {
            name: $name,
            open,
            needs: $needs,
        }
    }};
}

fn known() -> [Known; 7] {
    #[cfg(feature = "wgpu")]
    use burn::tensor::DeviceKind::DefaultDevice;
    [
        known!("cpu", Device::cpu(), "a processor that its compiler knows"),
        known!("wgpu", Device::wgpu(DefaultDevice), VULKAN),
        known!("vulkan", Device::vulkan(DefaultDevice), VULKAN),
        known!("metal", Device::metal(DefaultDevice), "macOS"),
        known!("webgpu", Device::webgpu(DefaultDevice), "a browser"),
        known!("cuda", Device::cuda(0), CUDA),
        known!("rocm", Device::rocm(0), ROCM),
    ]
}

impl Runtime {
    pub fn named(name: &str) -> Result<Self, String> {
        let named = known().into_iter().find(|known| known.name == name);
        match named {
            Some(Known {
                name,
                open: Some(open),
                needs,
            }) => Ok(Self { name, open, needs }),
            Some(_) => Err(format!(
                "this build has {}; build with `--features {name}` for {name}",
                list(true, "no runtime")
            )),
            None => Err(format!(
                "there is no such runtime; this build has {}, and there are also {}, each by the \
                 Cargo feature of its name",
                list(true, "none"),
                list(false, "no others")
            )),
        }
    }
}

/// The runtimes that are in this build, or those that are not.
fn list(in_build: bool, if_empty: &str) -> String {
    let known = known().into_iter();
    let chosen = known.filter(|known| known.open.is_some() == in_build);
    let names: Vec<&str> = chosen.map(|known| known.name).collect();
    match names.is_empty() {
        true => if_empty.to_string(),
        false => names.join(", "),
    }
}
