; The box has elements in a second block, and there is one.
; expect: tensor-bounds in launch 0 (kernel copy), instruction 0 `ldx b0+:v2, v0, code=rows` of FI.load: block 1 of tensor r0, which has 1 [/layer/Copy]
object "ldx-bounds" target "mtia-300" hbm 1024 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 12 planes 0 12 4
  tensor r1 out bytes 1024 planes 0 1024 1024
  buffer b0 "x" local 1024 x 1
  view v0 u8 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1024:1<1024)
  view v1 u8 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1024:1<1024)
  view v2 u8 local k4 offset 0 (1:1024, 1:1024, 1:1024, 1:1024, 1024:1)
  code:
    ldx b0+:v2, v0, code=rows
    st b0-:v2, v1
    halt
}

entry e0 "main" {
  output "y" u8 (1024) hbm:0
  launch #0 k0 (weights:0, hbm:0) o0
  code:
    launch #0
    halt
}

weights 12 {
  000000000000000002000000
}
