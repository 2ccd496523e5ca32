//! Contractions take over movement.

use super::{Case, case, conv_parts};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "contract-absorbs-left-permute",
            |l| {
                let d = l.dims(3);
                let x = l.param(&[d[1], d[0]]);
                let y = l.param(&[d[1], d[2]]);
                let x = l.permute(x, &[1, 0]);
                l.contract("ij,jk->ik", x, y)
            },
            "contractji,jk->ik(param0, param1)",
        ),
        case(
            "contract-absorbs-right-permute",
            |l| {
                let d = l.dims(4);
                let x = l.param(&[d[3], d[0], d[1]]);
                let y = l.param(&[d[1], d[2], d[3]]);
                let y = l.permute(y, &[2, 0, 1]);
                l.contract("bij,bjk->bik", x, y)
            },
            "contractbij,jkb->bik(param0, param1)",
        ),
        case(
            "permute-into-contract",
            |l| {
                let d = l.dims(3);
                let x = l.param(&[d[0], d[1]]);
                let y = l.param(&[d[1], d[2]]);
                let z = l.contract("ij,jk->ik", x, y);
                l.permute(z, &[1, 0])
            },
            "contractij,jk->ki(param0, param1)",
        ),
        case(
            "conv-absorbs-permute",
            |l| {
                let (x, w, op) = conv_parts(l, 2);
                let x = l.permute(x, &[0, 2, 1]);
                let x = l.permute(x, &[0, 2, 1]);
                l.emit(op, &[x, w])
            },
            "conv(permute[0, 2, 1](..), c)",
        ),
        case(
            "permute-into-conv",
            |l| {
                let (x, w, op) = conv_parts(l, 2);
                let y = l.emit(op, &[x, w]);
                l.permute(y, &[2, 0, 1])
            },
            "conv(param0, c)",
        ),
        case(
            "contract-without-unit-labels",
            |l| {
                let d = l.dims(3);
                let x = l.param(&[d[0], 1, d[1]]);
                let y = l.param(&[1, d[1], d[2]]);
                l.contract("iuj,ujk->uik", x, y)
            },
            "reshape(contractij,jk->ik(.., ..))",
        ),
        case(
            "contract-absorbs-left-broadcast",
            |l| {
                let d = l.dims(4);
                let (n, m) = (d[3] + 1, d[0] + 1);
                let x = l.param(&[1, d[0], d[1]]);
                let x = l.broadcast(x, &[0, 1, 3], &[n, d[0], m, d[1]]);
                let y = l.param(&[n, d[1], d[2]]);
                l.contract("nimj,njk->nimk", x, y)
            },
            "broadcast[0, 1, 3](contractij,njk->nik(.., ..))",
        ),
        case(
            "contract-absorbs-right-broadcast",
            |l| {
                let d = l.dims(3);
                let x = l.param(&[3, d[0], d[1]]);
                let y = l.param(&[d[2], d[1]]);
                let y = l.broadcast(y, &[1, 2], &[3, d[2], d[1]]);
                l.contract("bij,bkj->bik", x, y)
            },
            "contractbij,kj->bik(param0, param1)",
        ),
        case(
            "contract-splits-left-label",
            |l| {
                let d = l.dims(3);
                let x = l.param(&[d[0] + 1, d[1]]);
                let x = l.broadcast(x, &[0, 2], &[d[0] + 1, 2, d[1]]);
                let x = l.reshape(x, &[(d[0] + 1) * 2, d[1]]);
                let y = l.param(&[(d[0] + 1) * 2, d[1], d[2]]);
                l.contract("hj,hjk->hk", x, y)
            },
            "reshape(contractlmj,lmjk->lmk(.., ..))",
        ),
        case(
            "contract-splits-right-label",
            |l| {
                // Keys of grouped-query attention.
                let d = l.dims(3);
                let (groups, repeat) = (d[0] + 1, 2);
                let q = l.param(&[groups * repeat, d[1], d[2]]);
                let k = l.param(&[groups, 3, d[2]]);
                let k = l.reshape(k, &[groups, 1, 3, d[2]]);
                let k = l.broadcast(k, &[0, 1, 2, 3], &[groups, repeat, 3, d[2]]);
                let k = l.reshape(k, &[groups * repeat, 3, d[2]]);
                l.contract("htd,hsd->hts", q, k)
            },
            "reshape(contractuvtd,uvsd->uvts(.., ..))",
        ),
        case(
            "contract-splits-permuted-rows",
            |l| {
                // Heads and their columns stay merged: the sum runs over both.
                let d = l.dims(5);
                let x = l.param(&[d[1], d[2], d[0], d[3]]);
                let x = l.permute(x, &[2, 0, 1, 3]);
                let x = l.reshape(x, &[d[0] * d[1], d[2] * d[3]]);
                let y = l.param(&[d[2] * d[3], d[4]]);
                l.contract("ij,jk->ik", x, y)
            },
            "reshape(contractlmj,jk->lmk(.., ..))",
        ),
    ]
}
