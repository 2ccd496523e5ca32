; Two PEs scatter into one region, whatever their indices are.
; expect: race in launch 0 (kernel copy), instruction 2 `scatter b0-:v0, v2, b1-:v1, dim=3, combine=add` of FI.store on PE [0, 0, 0, 1]: byte 0 of tensor r0 was written by another PE [/layer/Copy]
object "scatter-race" target "mtia-300" hbm 256 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x2 {
  tensor r0 inout bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 1
  buffer b1 "i" local 32 x 1
  view v0 f32 local k4 offset 0 (1:64, 1:64, 1:64, 8:8, 8:1)
  view v1 i32 local k4 offset 0 (1:8, 1:8, 1:8, 8:1, 1:1)
  view v2 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 8:8<8, 8:1<8)
  constant c0 0x0
  code:
    fill b0+:v0, c0
    fill b1+:v1, c0
    scatter b0-:v0, v2, b1-:v1, dim=3, combine=add
    halt
}

entry e0 "main" {
  input "s" f32 (64) hbm:0
  output "y" f32 (64) hbm:0
  launch #0 k0 (hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
