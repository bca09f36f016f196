//! Rules by their path: all that a path can meet lies on one way down from the root.
//!
//! A radix trie. The cost of a look-up follows the length of the path and hardly the number of
//! rules: between the same letters, more rules add a branching or two.

/// Rules for paths and for prefixes of paths, each as a position in its virtual host.
#[derive(Debug, Clone)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// Whether `A` is `a`. ASCII letters only, as the matchers have it.
    ignore_case: bool,
}

/// A place in the trie; the root is the first.
#[derive(Debug, Clone, Default)]
struct Node {
    /// What leads here from the node above; empty at the root alone. Lower case if case does not
    /// count. Bytes: a branching may lie within a character.
    label: Box<[u8]>,
    /// The first bytes of the labels below, ascending, and the nodes that they lead to.
    branches: Vec<u8>,
    children: Vec<u32>,
    /// Rules for the path that ends here, ascending.
    exact: Vec<u32>,
    /// Rules for whatever begins like this, ascending.
    prefix: Vec<u32>,
    /// The nearest node above that has rules for a prefix.
    above: Option<u32>,
}

/// Everything in a trie that a path meets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met<'a> {
    nodes: &'a [Node],
    exact: &'a [u32],
    /// The lowest node with rules for a prefix.
    lowest: Option<u32>,
}

impl Trie {
    pub(super) fn new(ignore_case: bool) -> Self {
        Self {
            nodes: vec![Node::default()],
            ignore_case,
        }
    }

    /// Adds a rule for exactly `path`. Positions must come in ascending order.
    pub(super) fn insert_exact(&mut self, path: &str, position: u32) {
        let at = self.place(path);
        self.nodes[at].exact.push(position);
    }

    /// Adds a rule for every path that begins with `prefix`. Positions must come in ascending
    /// order.
    pub(super) fn insert_prefix(&mut self, prefix: &str, position: u32) {
        let at = self.place(prefix);
        self.nodes[at].prefix.push(position);
    }

    /// To be called after the last rule.
    pub(super) fn finish(&mut self) {
        let mut open = vec![(0_u32, None)];
        while let Some((at, above)) = open.pop() {
            let node = &mut self.nodes[at as usize];
            node.above = above;
            let above = if node.prefix.is_empty() {
                above
            } else {
                Some(at)
            };
            open.extend(node.children.iter().map(|child| (*child, above)));
        }
        self.nodes.shrink_to_fit();
    }

    /// Whether there is no rule in it.
    pub(super) fn is_empty(&self) -> bool {
        let [root] = &*self.nodes else {
            return false;
        };
        root.exact.is_empty() && root.prefix.is_empty()
    }

    /// What `path` meets. Allocates nothing.
    pub(super) fn find(&self, path: &str) -> Met<'_> {
        let mut rest = path.as_bytes();
        let mut at = 0;
        let mut lowest = None;
        let exact = loop {
            let node = &self.nodes[at as usize];
            if !node.prefix.is_empty() {
                lowest = Some(at);
            }
            let Some(first) = rest.first() else {
                break &*node.exact;
            };
            let Some(child) = node.child(self.folded(*first)) else {
                break &[];
            };
            let Some(after) = self.after(rest, &self.nodes[child as usize].label) else {
                break &[];
            };
            (at, rest) = (child, after);
        };
        Met {
            nodes: &self.nodes,
            exact,
            lowest,
        }
    }

    fn folded(&self, byte: u8) -> u8 {
        if self.ignore_case {
            byte.to_ascii_lowercase()
        } else {
            byte
        }
    }

    /// What follows `label` in `rest`, whose first byte has led to it.
    fn after<'a>(&self, rest: &'a [u8], label: &[u8]) -> Option<&'a [u8]> {
        // Most branchings are a byte long, and a comparison is a call.
        if label.len() == 1 {
            return rest.get(1..);
        }
        let (head, tail) = rest.split_at_checked(label.len())?;
        let is_same = if self.ignore_case {
            head.eq_ignore_ascii_case(label)
        } else {
            head == label
        };
        is_same.then_some(tail)
    }

    /// The node of a text, made if it is not there.
    fn place(&mut self, text: &str) -> usize {
        let text: Vec<u8> = text.bytes().map(|byte| self.folded(byte)).collect();
        let (mut at, mut rest) = (0, &*text);
        while let Some(first) = rest.first() {
            let Ok(branch) = self.nodes[at].branches.binary_search(first) else {
                return self.append(at, rest);
            };
            at = self.nodes[at].children[branch] as usize;
            let label = &self.nodes[at].label;
            let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common < label.len() {
                self.split(at, common);
            }
            rest = &rest[common..];
        }
        at
    }

    /// A new node below `at`.
    fn append(&mut self, at: usize, label: &[u8]) -> usize {
        let new = self.nodes.len();
        self.nodes.push(Node {
            label: label.into(),
            ..Node::default()
        });
        let above = &mut self.nodes[at];
        let branch = above.branches.partition_point(|byte| *byte < label[0]);
        above.branches.insert(branch, label[0]);
        above.children.insert(branch, index(new));
        new
    }

    /// Leaves `length` bytes of the label at `at`; the others and all that is there move one node
    /// down.
    fn split(&mut self, at: usize, length: usize) {
        let new = index(self.nodes.len());
        let label = std::mem::take(&mut self.nodes[at].label);
        let (head, tail) = label.split_at(length);
        let upper = Node {
            label: head.into(),
            branches: vec![tail[0]],
            children: vec![new],
            ..Node::default()
        };
        let moved = std::mem::replace(&mut self.nodes[at], upper);
        self.nodes.push(Node {
            label: tail.into(),
            ..moved
        });
    }
}

impl Node {
    fn child(&self, first: u8) -> Option<u32> {
        // Names branch into few letters: looking at each is cheaper than a search.
        let branch = self.branches.iter().position(|byte| *byte == first)?;
        self.children.get(branch).copied()
    }
}

impl Met<'_> {
    /// The first rule from `position` on. The cost follows the number of prefixes of the path that
    /// have rules.
    pub(super) fn first_from(&self, position: u32) -> Option<u32> {
        let mut first = first_from(self.exact, position);
        let mut at = self.lowest;
        while let Some(node) = at.and_then(|at| self.nodes.get(at as usize)) {
            let here = first_from(&node.prefix, position);
            first = first.into_iter().chain(here).min();
            at = node.above;
        }
        first
    }
}

/// The first of ascending positions from `position` on.
fn first_from(positions: &[u32], position: u32) -> Option<u32> {
    match positions {
        [] => None,
        [first, ..] if *first >= position => Some(*first),
        more => {
            let at = more.partition_point(|other| *other < position);
            more.get(at).copied()
        }
    }
}

/// A configuration of 4 GiB of nodes would not have arrived.
fn index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(trie: &Trie, path: &str) -> Vec<u32> {
        let met = trie.find(path);
        let next = |last: &u32| met.first_from(last + 1);
        std::iter::successors(met.first_from(0), next).collect()
    }

    #[test]
    fn a_path_meets_what_it_begins_with_in_the_order_of_the_rules() {
        let rules = [
            ("/a.B/Get", true),
            ("/a.B/", false),
            ("/a.B/G", false),
            ("", false),
            ("/a.B/Get", false),
            ("/a.C/", false),
            ("/ä", false),
            ("/ö", true),
            ("/a.B/Get", true),
        ];
        let table: [(&str, &[u32]); 9] = [
            ("/a.B/Get", &[0, 1, 2, 3, 4, 8]),
            ("/a.B/GetAll", &[1, 2, 3, 4]),
            ("/a.B/G", &[1, 2, 3]),
            ("/a.B/Put", &[1, 3]),
            ("/a.B", &[3]),
            ("/a.C/x", &[3, 5]),
            ("/ä/x", &[3, 6]),
            ("/ö", &[3, 7]),
            ("", &[3]),
        ];
        let mut trie = Trie::new(false);
        assert!(trie.is_empty());
        for (position, (text, exact)) in (0..).zip(rules) {
            match exact {
                true => trie.insert_exact(text, position),
                false => trie.insert_prefix(text, position),
            }
        }
        trie.finish();
        assert!(!trie.is_empty());
        for (path, expected) in table {
            assert_eq!(all(&trie, path), expected, "{path}");
        }
        assert_eq!(all(&trie, "/A.B/Get"), [3]);
    }

    #[test]
    fn case_counts_only_where_it_is_said() {
        let mut trie = Trie::new(true);
        trie.insert_exact("/A.b/Get", 0);
        trie.insert_prefix("/a.B/g", 1);
        trie.finish();
        assert_eq!(all(&trie, "/a.b/get"), [0, 1]);
        assert_eq!(all(&trie, "/A.B/GOT"), [1]);
        assert_eq!(all(&trie, "/a.b/"), Vec::<u32>::new());
    }

    #[test]
    fn agrees_with_a_look_at_each_rule() {
        let mut rng = fastrand::Rng::with_seed(7);
        let text = |rng: &mut fastrand::Rng| -> String {
            let length = rng.usize(0..6);
            (0..length)
                .map(|_| rng.choice(['a', 'b', 'ä']).unwrap())
                .collect()
        };
        for _ in 0..300 {
            let count = rng.usize(0..20);
            let rules: Vec<_> = (0..count).map(|_| (text(&mut rng), rng.bool())).collect();
            let mut trie = Trie::new(false);
            for (position, (text, exact)) in (0..).zip(&rules) {
                match exact {
                    true => trie.insert_exact(text, position),
                    false => trie.insert_prefix(text, position),
                }
            }
            trie.finish();
            for _ in 0..20 {
                let path = text(&mut rng);
                let meets = |(text, exact): &(String, bool)| match exact {
                    true => path == *text,
                    false => path.starts_with(text.as_str()),
                };
                let expected: Vec<u32> = (0..)
                    .zip(&rules)
                    .filter(|(_, rule)| meets(rule))
                    .map(|(at, _)| at)
                    .collect();
                assert_eq!(all(&trie, &path), expected, "{path:?} in {rules:?}");
            }
        }
    }
}
