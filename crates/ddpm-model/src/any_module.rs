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

/// A module whose type is known to whoever made it, with something that is no part of it and stays as it is.
pub struct AnyModule<X = ()> {
    module: Box<dyn DynModule>,
    /// What is no part of the module.
    pub extra: X,
}

impl AnyModule {
    /// Forgets the type of a module.
    pub fn new<M: Module + ModuleDisplay + Sync + 'static>(module: M) -> Self {
        Self::with(module, ())
    }
}

impl<X> AnyModule<X> {
    /// Forgets the type of a module, which is accompanied by `extra`.
    pub fn with<M: Module + ModuleDisplay + Sync + 'static>(module: M, extra: X) -> Self {
        Self { module: Box::new(module), extra }
    }

    /// The module, if it is of this type.
    pub fn get<M: 'static>(&self) -> Option<&M> {
        (*self.module).as_any().downcast_ref()
    }

    /// The same, to change what is no parameter.
    pub fn get_mut<M: 'static>(&mut self) -> Option<&mut M> {
        (*self.module).as_any_mut().downcast_mut()
    }
}

impl<X: Clone + fmt::Debug + Send> Module for AnyModule<X> {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.module.visit_dyn(&mut Typed(visitor));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        Self { module: self.module.map_dyn(&mut Typed(mapper)), extra: self.extra }
    }

    fn collect_devices(&self, devices: Devices) -> Devices {
        self.module.collect_devices_dyn(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self { module: self.module.fork_dyn(device), extra: self.extra }
    }

    fn to_device(self, device: &Device) -> Self {
        Self { module: self.module.to_device_dyn(device), extra: self.extra }
    }

    fn train(self) -> Self {
        Self { module: self.module.train_dyn(), extra: self.extra }
    }

    fn valid(&self) -> Self {
        Self { module: self.module.valid_dyn(), extra: self.extra.clone() }
    }

    fn materialize(self) -> Self {
        Self { module: self.module.materialize_dyn(), extra: self.extra }
    }

    fn num_params(&self) -> usize {
        self.module.num_params_dyn()
    }
}

impl<X: Clone> Clone for AnyModule<X> {
    fn clone(&self) -> Self {
        Self { module: self.module.clone_dyn(), extra: self.extra.clone() }
    }
}

impl<X> fmt::Debug for AnyModule<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.module.fmt(f)
    }
}

impl<X> fmt::Display for AnyModule<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.module.format(DisplaySettings::default()))
    }
}

impl<X: Clone + fmt::Debug + Send> ModuleDisplayDefault for AnyModule<X> {
    fn content(&self, content: Content) -> Option<Content> {
        self.module.content(content)
    }

    fn num_params(&self) -> usize {
        self.module.num_params_dyn()
    }
}

impl<X: Clone + fmt::Debug + Send> ModuleDisplay for AnyModule<X> {
    fn format(&self, settings: DisplaySettings) -> String {
        self.module.format(settings)
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
