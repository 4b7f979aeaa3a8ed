//! What somebody knows of the warps of many blocks: a tree whose parts are shared between all who
//! know the same. A copy costs nothing, and joining two touches only what differs, so that a
//! barrier of a thousand blocks stays affordable.

use std::sync::Arc;

use super::known::Known;

/// What is known of the warps of one block.
pub(super) type Leaf = Arc<[Known]>;

const BITS: u32 = 4;
const CHILDREN: usize = 1 << BITS;

enum Node {
    Branch([Option<Arc<Node>>; CHILDREN]),
    Leaf(Leaf),
}

/// Leaves by the number of their block; nothing is known of a block without one.
#[derive(Clone, Default)]
pub(super) struct Tree {
    root: Option<Arc<Node>>,
    /// Branches above a leaf: block numbers have this many times [`BITS`] bits.
    height: u32,
}

impl Tree {
    pub fn get(&self, block: u64) -> Option<&Leaf> {
        if !self.has_room(block) {
            return None;
        }
        let mut node = self.root.as_ref()?;
        let mut level = self.height;
        loop {
            match node.as_ref() {
                Node::Leaf(leaf) => return Some(leaf),
                Node::Branch(children) => {
                    level -= 1;
                    node = children[child(block, level)].as_ref()?;
                }
            }
        }
    }

    fn has_room(&self, block: u64) -> bool {
        self.height * BITS >= u64::BITS || block >> (self.height * BITS) == 0
    }

    /// Raises the tree, so that it has at least `height` branches above its leaves.
    fn grow(&mut self, height: u32) {
        while self.height < height {
            if let Some(root) = self.root.take() {
                let mut children = [const { None }; CHILDREN];
                children[0] = Some(root);
                self.root = Some(Arc::new(Node::Branch(children)));
            }
            self.height += 1;
        }
    }

    /// Learns what `leaf` knows of a block.
    pub fn learn(&mut self, block: u64, leaf: &Leaf) {
        let mut height = self.height;
        while height * BITS < u64::BITS && block >> (height * BITS) != 0 {
            height += 1;
        }
        self.grow(height);
        self.root = Some(with(self.root.as_ref(), self.height, block, leaf));
    }

    pub fn join(&mut self, other: &Tree) {
        let Some(theirs) = &other.root else {
            return;
        };
        if self.root.is_none() {
            *self = other.clone();
            return;
        }
        if self.height < other.height {
            self.grow(other.height);
        } else if other.height < self.height {
            let mut higher = other.clone();
            higher.grow(self.height);
            return self.join(&higher);
        }
        if let Some(own) = &self.root {
            self.root = Some(joined(own, theirs));
        }
    }

    /// Whether the two share everything.
    pub fn is_same(&self, other: &Tree) -> bool {
        match (&self.root, &other.root) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

fn child(block: u64, level: u32) -> usize {
    (block >> (level * BITS)) as usize % CHILDREN
}

fn with(node: Option<&Arc<Node>>, level: u32, block: u64, leaf: &Leaf) -> Arc<Node> {
    match node.map(AsRef::as_ref) {
        Some(Node::Leaf(own)) => Arc::new(Node::Leaf(join_leaves(own, leaf))),
        Some(Node::Branch(children)) => {
            let mut children = children.clone();
            let at = child(block, level - 1);
            let twin = children.iter().flatten().next().filter(|_| level == 1);
            let twin = twin.filter(|twin| matches!(twin.as_ref(), Node::Leaf(x) if x == leaf));
            // Blocks run the same code, so that as much is known of one as of the next.
            children[at] = Some(match (&children[at], twin) {
                (None, Some(twin)) => twin.clone(),
                (own, _) => with(own.as_ref(), level - 1, block, leaf),
            });
            Arc::new(Node::Branch(children))
        }
        None if level == 0 => Arc::new(Node::Leaf(leaf.clone())),
        None => {
            let mut children = [const { None }; CHILDREN];
            children[child(block, level - 1)] = Some(with(None, level - 1, block, leaf));
            Arc::new(Node::Branch(children))
        }
    }
}

/// Both nodes' knowledge; the same node as one of them where that one knows everything already.
fn joined(a: &Arc<Node>, b: &Arc<Node>) -> Arc<Node> {
    if Arc::ptr_eq(a, b) {
        return a.clone();
    }
    match (a.as_ref(), b.as_ref()) {
        (Node::Leaf(x), Node::Leaf(y)) => {
            let leaf = join_leaves(x, y);
            if Arc::ptr_eq(&leaf, x) {
                a.clone()
            } else if Arc::ptr_eq(&leaf, y) {
                b.clone()
            } else {
                Arc::new(Node::Leaf(leaf))
            }
        }
        (Node::Branch(x), Node::Branch(y)) => {
            let (mut as_x, mut as_y) = (true, true);
            let mut children = [const { None }; CHILDREN];
            for (at, (x, y)) in children.iter_mut().zip(x.iter().zip(y)) {
                match (x, y) {
                    (Some(x), Some(y)) => {
                        let child = joined(x, y);
                        as_x &= Arc::ptr_eq(&child, x);
                        as_y &= Arc::ptr_eq(&child, y);
                        *at = Some(child);
                    }
                    (Some(x), None) => {
                        as_y = false;
                        *at = Some(x.clone());
                    }
                    (None, Some(y)) => {
                        as_x = false;
                        *at = Some(y.clone());
                    }
                    (None, None) => {}
                }
            }
            if as_x {
                a.clone()
            } else if as_y {
                b.clone()
            } else {
                Arc::new(Node::Branch(children))
            }
        }
        // Trees of one height have leaves at the same places.
        _ => a.clone(),
    }
}

/// The same leaf as one of the two where that one knows everything already.
pub(super) fn join_leaves(a: &Leaf, b: &Leaf) -> Leaf {
    if Arc::ptr_eq(a, b) {
        return a.clone();
    }
    let mut out: Option<Leaf> = None;
    let mut as_b = true;
    for (warp, (x, y)) in a.iter().zip(b.iter()).enumerate() {
        let mut both = *x;
        both.join(y);
        as_b &= both == *y;
        if both != *x {
            let out = out.get_or_insert_with(|| a.clone());
            Arc::make_mut(out)[warp] = both;
        }
    }
    match out {
        None => a.clone(),
        Some(_) if as_b => b.clone(),
        Some(out) => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(step: u32) -> Leaf {
        vec![Known::all(step); 2].into()
    }

    #[test]
    fn leaves_are_found_at_any_height() {
        let mut tree = Tree::default();
        for block in [3, 0, 17, 70_000, u64::MAX] {
            tree.learn(block, &leaf(block as u32 % 1000 + 1));
        }
        for block in [3, 0, 17, 70_000, u64::MAX] {
            let found = tree.get(block).map(|leaf| leaf[1]);
            assert_eq!(found, Some(Known::all(block as u32 % 1000 + 1)), "{block}");
        }
        assert!(tree.get(4).is_none() && tree.get(1 << 40).is_none());
        assert!(Tree::default().get(0).is_none());
    }

    #[test]
    fn blocks_of_which_the_same_is_known_share_it() {
        let mut tree = Tree::default();
        (32..48).for_each(|block| tree.learn(block, &leaf(7)));
        let first = tree.get(32).expect("known");
        let shared = |block| Arc::ptr_eq(tree.get(block).expect("known"), first);
        assert!((33..48).all(shared));
        let before = tree.clone();
        tree.learn(40, &leaf(9));
        let step = |tree: &Tree, block| tree.get(block).map(|leaf| leaf[0]);
        assert_eq!(step(&tree, 40), Some(Known::all(9)));
        assert_eq!(step(&tree, 41), Some(Known::all(7)));
        assert_eq!(step(&before, 40), Some(Known::all(7)));
    }

    #[test]
    fn joins_know_what_either_knew_and_share_what_they_can() {
        let (mut a, mut b) = (Tree::default(), Tree::default());
        a.learn(1, &leaf(5));
        a.learn(2, &leaf(6));
        b.learn(2, &leaf(9));
        b.learn(300, &leaf(2));
        let mut both = a.clone();
        both.join(&b);
        for (block, step) in [(1, 5), (2, 9), (300, 2)] {
            assert_eq!(both.get(block).map(|leaf| leaf[0]), Some(Known::all(step)));
        }
        let mut again = both.clone();
        again.join(&b);
        again.join(&a);
        assert!(again.is_same(&both), "nothing new: the same tree");
    }
}
