; Masked products, seeds, factors, statistics, sorts and merges of one tile, with clips on every side.
object "rows" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Rows" "TopK"

kernel k0 "rows" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 1
  buffer b1 "m" local 64 x 1
  buffer b2 "acc" bank 256 x 1
  buffer b3 "y" local 256 x 1
  buffer b4 "s" local 64 x 2
  buffer b5 "t" local 64 x 1
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v3 f32 local k4 offset 0 (1:64, 8:8<7, 1:8, 1:8, 8:1)
  view v4 f32 local k4 offset 0 (1:64, 1:64, 1:64, 8:8, 8:1)
  view v5 bool local k4 offset 0 (1:8, 1:8, 1:8, 1:8, 8:1)
  view v6 bool local k4 offset 0 (1:8, 1:8, 1:8, 4:2, 2:1<1)
  view v7 f32 local k4 offset 0 (1:64, 1:64, 1:64, 8:8, 8:1<5)
  view v8 f32 local k4 offset 0 (1:1, 1:1, 1:1, 8:0, 8:1)
  view v9 f32 local k4 offset 0 (1:8, 1:8, 1:8, 8:1, 1:1)
  view v10 i64 local k4 offset 0 (1:8, 1:8, 1:8, 2:4, 4:1)
  view v11 f32 local k4 offset 0 (1:64, 1:64, 1:64, 2:8, 8:1@-2<5)
  view v12 i64 local k4 offset 0 (1:8, 1:8, 1:8, 2:4, 3:1)
  view v13 f32 local k4 offset 0 (4:8, 1:8, 1:8, 2:4, 4:1)
  constant c0 0x1
  code:
    ld b0+:v2, v0
    fill b1+:v5, c0
    mmact b2+:v4, b0:v3, b0:v4, b1:v5
    mmblk b2!:v4, b0:v3, b0:v4, b1:v6
    mmblk b2!:v4, b0:v3, b0:v13, b1:v6, packed=true
    seed b2!:v7, b0:v8
    resc b2!:v4, b0:v8
    stat max, b5+:v9, b2:v7
    drain b3+:v4, b2-:v4
    st b3-:v2, v1
    pop b5, n=1
    sort b4+:v10, b0:v11, k=4
    sort b4+:v10, b0:v11, k=4, descending=true
    merge b5+:v12, b4:v10, b4[1]:v10, k=3
    pop b0, n=1
    pop b1, n=1
    pop b4, n=2
    pop b5, n=1
    halt
}

entry e0 "main" {
  input "x" f32 (64) hbm:0
  output "y" f32 (64) hbm:256
  launch #0 k0 (hbm:0, hbm:256) o0
  code:
    launch #0
    halt
}

weights 0 {
}
