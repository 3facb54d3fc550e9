//! One type for every module: what holds it knows neither its fields nor its type.
//!
//! A visitor or mapper meets the same parameters in the same order, under the same paths and ids, as in the module
//! itself, so records, optimizers and averages are those of the inner module, byte for byte.

use std::any::{Any, type_name};
use std::fmt;

use burn::module::{
    Content, Devices, DisplaySettings, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::{Bool, Device, Float, Int, Tensor};

/// A module whose type is known to whoever made it.
pub struct AnyModule(Box<dyn DynModule>);

impl AnyModule {
    /// Forgets the type of a module.
    pub fn new<M: Module + ModuleDisplay + Sync + 'static>(module: M) -> Self {
        Self(Box::new(module))
    }

    /// The module, if it is of this type.
    pub fn get<M: 'static>(&self) -> Option<&M> {
        self.0.as_any().downcast_ref()
    }

    /// The same, to change what is no parameter.
    pub fn get_mut<M: 'static>(&mut self) -> Option<&mut M> {
        self.0.as_any_mut().downcast_mut()
    }
}

impl Module for AnyModule {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit_dyn(&mut Typed(visitor));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        Self(self.0.map_dyn(&mut Typed(mapper)))
    }

    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices_dyn(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self(self.0.fork_dyn(device))
    }

    fn to_device(self, device: &Device) -> Self {
        Self(self.0.to_device_dyn(device))
    }

    fn train(self) -> Self {
        Self(self.0.train_dyn())
    }

    fn valid(&self) -> Self {
        Self(self.0.valid_dyn())
    }

    fn materialize(self) -> Self {
        Self(self.0.materialize_dyn())
    }

    fn num_params(&self) -> usize {
        self.0.num_params_dyn()
    }
}

impl Clone for AnyModule {
    fn clone(&self) -> Self {
        Self(self.0.clone_dyn())
    }
}

impl fmt::Debug for AnyModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AnyModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(DisplaySettings::default()))
    }
}

impl ModuleDisplayDefault for AnyModule {
    fn content(&self, content: Content) -> Option<Content> {
        self.0.content(content)
    }

    fn num_params(&self) -> usize {
        self.0.num_params_dyn()
    }
}

impl ModuleDisplay for AnyModule {
    fn format(&self, settings: DisplaySettings) -> String {
        self.0.format(settings)
    }
}

/// Burn's `Module` without its generic methods.
trait DynModule: ModuleDisplay + fmt::Debug + Send + Sync {
    fn visit_dyn(&self, visitor: &mut dyn DynVisitor);
    fn map_dyn(self: Box<Self>, mapper: &mut dyn DynMapper) -> Box<dyn DynModule>;
    fn collect_devices_dyn(&self, devices: Devices) -> Devices;
    fn fork_dyn(self: Box<Self>, device: &Device) -> Box<dyn DynModule>;
    fn to_device_dyn(self: Box<Self>, device: &Device) -> Box<dyn DynModule>;
    fn train_dyn(self: Box<Self>) -> Box<dyn DynModule>;
    fn valid_dyn(&self) -> Box<dyn DynModule>;
    fn materialize_dyn(self: Box<Self>) -> Box<dyn DynModule>;
    fn num_params_dyn(&self) -> usize;
    fn clone_dyn(&self) -> Box<dyn DynModule>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<M: Module + ModuleDisplay + Sync + 'static> DynModule for M {
    fn visit_dyn(&self, visitor: &mut dyn DynVisitor) {
        self.visit(&mut Untyped(visitor));
    }

    fn map_dyn(self: Box<Self>, mapper: &mut dyn DynMapper) -> Box<dyn DynModule> {
        Box::new(self.map(&mut Untyped(mapper)))
    }

    fn collect_devices_dyn(&self, devices: Devices) -> Devices {
        self.collect_devices(devices)
    }

    fn fork_dyn(self: Box<Self>, device: &Device) -> Box<dyn DynModule> {
        Box::new((*self).fork(device))
    }

    fn to_device_dyn(self: Box<Self>, device: &Device) -> Box<dyn DynModule> {
        Box::new((*self).to_device(device))
    }

    fn train_dyn(self: Box<Self>) -> Box<dyn DynModule> {
        Box::new((*self).train())
    }

    fn valid_dyn(&self) -> Box<dyn DynModule> {
        Box::new(self.valid())
    }

    fn materialize_dyn(self: Box<Self>) -> Box<dyn DynModule> {
        Box::new((*self).materialize())
    }

    fn num_params_dyn(&self) -> usize {
        Module::num_params(self)
    }

    fn clone_dyn(&self) -> Box<dyn DynModule> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A visitor that is given `&Param<Tensor<D, K>>` as `&dyn Any`.
trait DynVisitor {
    fn visit(&mut self, param: &dyn Any);
    fn flag(&mut self, flag: &Param<Flag>);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// A mapper that is given `&mut Option<Param<Tensor<D, K>>>`, so that no parameter needs a box.
trait DynMapper {
    fn map(&mut self, slot: &mut dyn Any);
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// The side of the module: types are forgotten.
struct Untyped<'a, T: ?Sized>(&'a mut T);

impl ModuleVisitor for Untyped<'_, dyn DynVisitor + '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.visit(param);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.visit(param);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.visit(param);
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.flag(flag);
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

fn map_in<T: 'static>(mapper: &mut dyn DynMapper, param: T) -> T {
    let mut slot = Some(param);
    mapper.map(&mut slot);
    slot.unwrap_or_else(|| unreachable!("the mapper gives back what it took"))
}

impl ModuleMapper for Untyped<'_, dyn DynMapper + '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        map_in(self.0, param)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        map_in(self.0, param)
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        map_in(self.0, param)
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.flag(flag)
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// The side of the visitor or mapper: types are found again.
struct Typed<'a, T>(&'a mut T);

/// Runs the body for every rank and kind; it returns where they fit.
macro_rules! for_each_type {
    ($body:ident, $float:ident $int:ident $bool:ident) => {
        for_each_type!(@ $body, $float Float, [1 2 3 4 5 6 7 8]);
        for_each_type!(@ $body, $int Int, [1 2 3 4 5 6 7 8]);
        for_each_type!(@ $body, $bool Bool, [1 2 3 4 5 6 7 8]);
    };
    (@ $body:ident, $method:ident $kind:ty, [$($rank:literal)*]) => { $($body!($method, Param<Tensor<$rank, $kind>>);)* };
}

impl<V: ModuleVisitor> DynVisitor for Typed<'_, V> {
    fn visit(&mut self, param: &dyn Any) {
        macro_rules! attempt {
            ($method:ident, $param:ty) => {
                if let Some(param) = param.downcast_ref::<$param>() {
                    return self.0.$method(param);
                }
            };
        }
        for_each_type!(attempt, visit_float visit_int visit_bool);
        unreachable!("{} met a tensor of more than 8 axes", type_name::<V>());
    }

    fn flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag);
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl<M: ModuleMapper> DynMapper for Typed<'_, M> {
    fn map(&mut self, slot: &mut dyn Any) {
        macro_rules! attempt {
            ($method:ident, $param:ty) => {
                if let Some(slot) = slot.downcast_mut::<Option<$param>>() {
                    *slot = slot.take().map(|param| self.0.$method(param));
                    return;
                }
            };
        }
        for_each_type!(attempt, map_float map_int map_bool);
        unreachable!("{} met a tensor of more than 8 axes", type_name::<M>());
    }

    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::store::ModuleRecord;

    use super::*;
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
