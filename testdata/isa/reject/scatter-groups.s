; Elements of groups do not add up.
; expect: form in launch 0 (kernel copy), instruction 2 `scatter b0-:v0, v2, b1-:v1, dim=3, combine=add` of FI.store: elements of mxfp8 do not combine [/layer/Copy]
object "scatter-groups" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 inout bytes 66 planes 0 64 66
  buffer b0 "x" local 128 x 1
  buffer b1 "i" local 32 x 1
  view v0 mxfp8 local k4 offset 0 (1:64, 1:64, 1:64, 2:32, 32:1)
  view v1 i32 local k4 offset 0 (1:2, 1:2, 1:2, 2:1, 1:1)
  view v2 mxfp8 global r0 k4 offset 0 (1:0, 1:0, 1:0, 2:32<2, 32:1<32)
  constant c0 0x0
  code:
    fill b0+:v0, c0
    fill b1+:v1, c0
    scatter b0-:v0, v2, b1-:v1, dim=3, combine=add
    halt
}

entry e0 "main" {
  input "s" u8 (66) hbm:0
  output "y" u8 (66) hbm:0
  launch #0 k0 (hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
