//! Kernels by family: each turns one fusion group into a stream.

pub mod attention;
mod attention_flow;
pub mod attention_plan;
pub mod attention_programs;
mod attention_stripe_plan;
mod attention_stripes;
mod attention_tiles;
mod attention_time;
pub mod blocks;
mod carry;
pub mod dots;
pub mod fill;
pub mod gather;
pub mod map;
pub mod norm;
pub mod problem;
pub mod product;
pub mod product_tiles;
pub mod product_time;
pub mod product_views;
pub mod quantize;
pub mod reduce;
pub mod rows;
pub mod scan;
pub mod space;
pub mod sparse;
