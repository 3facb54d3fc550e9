//! The type that every module of a family has for the trainer.

pub use ddpm_model::any_module::AnyModule;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig};
    use burn::store::ModuleRecord;
    use burn::tensor::Device;

    use super::AnyModule;
    use crate::parameters::{parameters, settle};

    fn layers() -> Vec<Linear> {
        settle(vec![
            LinearConfig::new(2, 3).init(&Device::default()),
            LinearConfig::new(3, 1).with_bias(false).init(&Device::default()),
        ])
    }

    fn bytes(record: ModuleRecord) -> Vec<u8> {
        record.into_bytes().unwrap().to_vec()
    }

    #[test]
    fn names_ids_counts_and_records_are_those_of_the_module_inside() {
        let inner = layers();
        let outer = AnyModule::new(inner.clone());
        assert_eq!(parameters(&outer), parameters(&inner));
        assert_eq!(Module::num_params(&outer), 9 + 3);
        assert_eq!(bytes(outer.clone().into_record()), bytes(inner.clone().into_record()));
        // Each is loaded with the other's record.
        let other = AnyModule::new(layers()).try_load_record(inner.clone().into_record()).unwrap();
        assert_eq!(bytes(other.into_record()), bytes(inner.into_record()));
        assert!(outer.get::<Vec<Linear>>().is_some() && outer.get::<Linear>().is_none());
    }
}
