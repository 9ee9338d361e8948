//! Limits in configuration files, with serde: plain numbers, `"max"`, and the kernel's own text.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::{CpuSet, HugePage, Max};
use crate::device::Device;
use crate::devices::DeviceRule;

impl<T: Serialize> Serialize for Max<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Max::Of(limit) => limit.serialize(serializer),
            Max::Unlimited => serializer.serialize_str("max"),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Max<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        enum Word {
            #[serde(rename = "max")]
            Max,
        }
        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "a limit or \"max\"")]
        enum Either<T> {
            Unlimited(Word),
            Of(T),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Unlimited(Word::Max) => Max::Unlimited,
            Either::Of(limit) => Max::Of(limit),
        })
    }
}

/// What prints and parses as text.
macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(std::marker::PhantomData))
            }
        }
    )*};
}

as_text!(CpuSet, Device, DeviceRule, HugePage);

struct Text<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = crate::Error>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text as the kernel writes it")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{IoMax, Limits, Partition};

    fn full() -> Limits {
        let disk = Device::number(8, 0);
        let ms = Duration::from_millis;
        Limits::new()
            .memory_max(1 << 30)
            .memory_high(Max::Unlimited)
            .memory_swap_oci(-1)
            .memory_oom_group(true)
            .pids_max(5)
            .cpu_max(Max::Unlimited, ms(50))
            .cpu_weight_nice(-3)
            .cpu_uclamp_min(12.5)
            .cpuset_cpus("0-3,7".parse().unwrap())
            .cpuset_partition(Partition::Isolated)
            .io_max(disk, IoMax::new().rbps(5_u64).wiops(Max::Unlimited))
            .blkio_weight_oci(500)
            .io_latency(disk, ms(5))
            .hugetlb_max(HugePage::MB2, 1 << 21)
            .rdma_max("mlx5_0", 1, Max::Unlimited)
            .misc_max("sev", 2)
            .dmem_low("a/b", 3)
            .raw("memory.high", "1M")
            .best_effort()
    }

    #[test]
    fn limits_come_back_as_they_were() {
        for limits in [full(), Limits::new(), Limits::new().cpus(0.5)] {
            let text = serde_json::to_string(&limits).unwrap();
            assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits);
        }
    }

    #[test]
    fn what_is_not_given_is_no_limit_and_what_is_not_known_is_refused() {
        let text = r#"{"memory": {"max": 1048576, "high": "max"}, "cpuset": {"cpus": "0-1"}}"#;
        let limits: Limits = serde_json::from_str(text).unwrap();
        let expected = Limits::new()
            .memory_max(1 << 20)
            .memory_high(Max::Unlimited);
        assert_eq!(limits, expected.cpuset_cpus("0,1".parse().unwrap()));
        assert_eq!(serde_json::from_str::<Limits>("{}").unwrap(), Limits::new());
        for text in [
            r#"{"memroy": {}}"#,
            r#"{"memory": {"maximum": 1}}"#,
            r#"{"memory": {"max": "many"}}"#,
            r#"{"memory": {"max": -1}}"#,
            r#"{"pids": {"max": 1.5}}"#,
            r#"{"cpuset": {"cpus": "a"}}"#,
            r#"{"io": {"max": [["8", {}]]}}"#,
            r#"{"io": {"max": [["8:0", {"speed": 1}]]}}"#,
        ] {
            assert!(serde_json::from_str::<Limits>(text).is_err(), "{text}");
        }
    }
}
