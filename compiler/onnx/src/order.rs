//! The order of nodes: each behind those whose results it uses. ONNX demands it, but tools leave nodes at the end of the list that
//! stand for what comes before, and runtimes sort.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::proto::{GraphProto, NodeProto};

/// The nodes in an order in which results come before their uses, otherwise as they are given; those of a circle last.
pub(crate) fn in_order(nodes: Vec<&NodeProto>) -> Vec<&NodeProto> {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            makers.entry(name).or_insert(i);
        }
    }
    // The nodes that must come before each; a name that no node here defines is an input or comes from an outer graph.
    let mut n_open = vec![0usize; nodes.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut is_sorted = true;
    for (i, node) in nodes.iter().enumerate() {
        each_use(node, &mut |name| {
            if let Some(&maker) = makers.get(name).filter(|&&maker| maker != i) {
                is_sorted &= maker < i;
                users[maker].push(i);
                n_open[i] += 1;
            }
        });
    }
    if is_sorted {
        return nodes;
    }
    let mut ready: BinaryHeap<Reverse<usize>> = BinaryHeap::new();
    ready.extend((0..nodes.len()).filter(|&i| n_open[i] == 0).map(Reverse));
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(nodes[i]);
        for &user in &users[i] {
            n_open[user] -= 1;
            if n_open[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    order.extend((0..nodes.len()).filter(|&i| n_open[i] > 0).map(|i| nodes[i]));
    order
}

/// Calls `each` for the names that a node uses, those of its subgraphs among them.
fn each_use<'n>(node: &'n NodeProto, each: &mut impl FnMut(&'n str)) {
    fn of_graph<'n>(graph: &'n GraphProto, each: &mut impl FnMut(&'n str)) {
        graph.node.iter().for_each(|node| each_use(node, each));
        graph.output.iter().for_each(|output| each(&output.name));
    }
    node.input.iter().for_each(|name| each(name));
    for attribute in &node.attribute {
        attribute.g.iter().chain(&attribute.graphs).for_each(|graph| of_graph(graph, each));
    }
}
