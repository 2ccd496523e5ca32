; The message has eight elements, four are received.
; expect: shape-mismatch in launch 1 (kernel main), instruction 1 `recv x1` of ME: a message of 32 bytes is received as 16
object "recv-other-size" target "mtia-300" hbm 1024 sram 0

entry e0 "main" {
  ranks 2
  input "x" f32 (8) hbm:0
  output "y" f32 (8) hbm:512
  transfer x0 hbm:0 hbm:0 f32 x 8 replace peer 1
  transfer x1 hbm:0 hbm:512 f32 x 4 replace peer 1
  code:
    send x0
    recv x1
    halt
}

weights 0 {
}
